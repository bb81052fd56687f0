"""Reading a model and its tokenizer, fit for training, or one sentence that says why it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.import_utils import is_flash_attn_2_available

from shared.errors import DataError
from shared.settings import ModelSettings
from trainer.memory import memory_errors


def load_network(path: str | Path, settings: ModelSettings, device: torch.device) -> nn.Module:
    """The causal language model on `device`, without dropout. Raises DataError and SettingsError.

    Weights are float32; where an adapter is to be trained they stay as they are, and have the type of computation.
    """
    dtype = torch.float32 if settings.lora is None else getattr(torch, settings.dtype)
    try:
        with memory_errors(settings, None):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=attention_of(settings, device),
                output_loading_info=True,
            )
            found, report = loaded
            network: nn.Module = found.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise _not_loaded(path, error) from error
    if report["missing_keys"]:
        # transformers draws them at random, and training would begin from noise.
        lacking = sorted(report["missing_keys"])
        raise DataError(
            f"model.path '{path}': its weights lack {len(lacking)} of the model's tensors, such as {lacking[0]}; give "
            "a complete checkpoint of a causal language model.",
            field="model.path",
        )
    if not hasattr(_text_config(network), "max_position_embeddings"):
        raise DataError(
            f"model.path '{path}': its config.json has no max_position_embeddings, so nobody knows how long a sequence "
            "may be; add it.",
            field="model.path",
        )
    if settings.gradient_checkpointing:
        _checkpoint_layers(network)
    return network


def load_tokenizer(path: str | Path, network: nn.Module) -> Any:
    """The tokenizer, with a chat template and no ids that the network lacks. Raises DataError."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_loaded(path, error) from error
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        raise DataError(
            f"model.path '{path}': its tokenizer has no chat template; take an instruction-tuned model, or save a "
            "chat_template.jinja beside the tokenizer.",
            field="model.path",
        ) from error
    highest, known = max(tokenizer.get_vocab().values()), embeddings(network)
    if highest >= known:
        raise DataError(
            f"model.path '{path}': its tokenizer has ids up to {highest}, but the model embeds {known}; take the "
            "tokenizer that belongs to the model, or resize the model's embeddings.",
            field="model.path",
        )
    return tokenizer


def embeddings(network: nn.Module) -> int:
    """How many token ids the network has embeddings of."""
    found: Any = network
    return int(found.get_input_embeddings().weight.shape[0])


def attention_of(settings: ModelSettings, device: torch.device) -> str | None:
    """The attention to ask transformers for; None is its own choice, torch's where the model allows it.

    Raises DataError where flash attention is asked for and cannot be had.
    """
    wanted, gpu, half = settings.attention, device.type == "cuda", settings.dtype == "bfloat16"
    if wanted == "auto":
        return "flash_attention_2" if gpu and half and is_flash_attn_2_available() else None
    if wanted == "flash_attention_2" and not (gpu and half and is_flash_attn_2_available()):
        lacks = "a GPU" if not gpu else "model.dtype=bfloat16" if not half else "the package flash-attn"
        raise DataError(
            f"model.attention is 'flash_attention_2', which needs {lacks}; set model.attention=auto, which takes it "
            "where it can be had.",
            field="model.attention",
        )
    return wanted


def device_of(settings: ModelSettings) -> torch.device:
    """Where the trainer computes. Raises DataError."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise DataError("model.device is 'cuda' but torch sees no GPU; set model.device=cpu", field="model.device")
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def _text_config(network: nn.Module) -> Any:
    """Of a model that also sees images, the part about text."""
    config: Any = network.config
    return config.get_text_config()


def _checkpoint_layers(network: nn.Module) -> None:
    """Make each layer compute its activations again in the backward pass."""
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise DataError(
            f"model.gradient_checkpointing is true, but {type(network).__name__} has no layers that can do it; set it "
            "to false.",
            field="model.gradient_checkpointing",
        )
    found: Any = network
    found.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        # The layer's own flag alone: its children stay without dropout.
        layer.training = True


def _not_loaded(path: str | Path, error: Exception) -> DataError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return DataError(
        f"no model could be loaded from model.path '{path}': {first}. Point model.path to a Hugging Face "
        "model directory, a hub id, or builtin:renamed_library.",
        field="model.path",
    )
