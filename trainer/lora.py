"""Low-rank adapters (arXiv 2106.09685) through PEFT: put into a network, merged out of it, written as files.

The network stays the class that it was. Its layers with an adapter compute (W + alpha / rank * B A) x; B starts at
zero, so that the network starts as the initial model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import DataError
from shared.settings import LoRASettings

ADAPTER_FILE = "adapter_model.safetensors"
_NAME = "default"
_BASE = ".base_layer."


def add_adapter(network: nn.Module, settings: LoRASettings) -> None:
    """Put an adapter, in float32, into `network`; from here on only it requires gradients. Raises DataError."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=_targets(network, settings),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, network, _NAME)
    # PEFT keeps a set, which each process would write in an order of its own.
    config.target_modules = sorted(config.target_modules or ())
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def switch_dropout(network: nn.Module, on: bool) -> None:
    """The adapter's dropout, on or off."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
            module.train(on)


@torch.no_grad()
def merged(network: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights of the same model without adapters, by their names in that model. They are added up in float32."""
    weights: dict[str, Tensor] = {}
    whole: dict[int, Tensor] = {}
    for name, tensor in network.state_dict().items():
        layer, is_base, rest = name.partition(_BASE)
        if is_base and rest == "weight":
            adapted: Any = network.get_submodule(layer)
            weights[f"{layer}.{rest}"] = (tensor.float() + adapted.get_delta_weight(_NAME).float()).to(dtype)
        elif is_base or ".lora_" not in name:
            # Tied weights stay one tensor, or they would be written twice.
            if tensor.data_ptr() not in whole:
                whole[tensor.data_ptr()] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            weights[f"{layer}.{rest}" if is_base else name] = whole[tensor.data_ptr()]
    return weights


def save_adapter(network: nn.Module, directory: Path) -> None:
    """Write the adapter as PEFT and vLLM read it: `adapter_model.safetensors` and `adapter_config.json`."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    found: Any = network
    config = found.peft_config[_NAME]
    weights = get_peft_model_state_dict(found, adapter_name=_NAME)
    prefixed = {f"base_model.model.{name}": tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(prefixed, directory / ADAPTER_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def _targets(network: nn.Module, settings: LoRASettings) -> list[str]:
    """Last names of the layers that get an adapter: those that the settings name, or all linear layers but the head."""
    found: Any = network
    head, embeddings = found.get_output_embeddings(), found.get_input_embeddings()
    last = {id(module): name.rpartition(".")[2] for name, module in network.named_modules()}
    linear = {last[id(m)] for m in network.modules() if isinstance(m, nn.Linear) and m is not head}
    wanted = sorted(linear) if settings.targets is None else list(settings.targets)
    unknown = [name for name in wanted if name not in linear]
    if unknown or not wanted:
        fixed = {last[id(module)] for module in (head, embeddings)}
        reason = "which takes no adapter" if fixed & set(unknown) else "and the model has no such linear layers"
        known = ", ".join(sorted(linear)) or "none that there are"
        raise DataError(
            f"model.lora.targets names {unknown[0] if unknown else 'nothing'}, {reason}: choose from {known}.",
            field="model.lora.targets",
        )
    return wanted
