"""Models and tokenizers that cannot be trained: one sentence each, with the setting and the fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model
from transformers import AutoTokenizer

from shared.errors import DataError
from shared.settings import LearnerSettings, ModelSettings
from trainer import loading
from trainer.loading import attention_of
from trainer.policy import Policy

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def refused(directory: Path, **model: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        Policy(directory, ModelSettings(device="cpu", **model), LearnerSettings(), temperature=1.0)
    assert "\n" not in str(caught.value)
    return caught.value


def without_template(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()


def with_more_tokens(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens([f"<|extra_{i}|>" for i in range(3)])
    tokenizer.save_pretrained(directory)


def without_positions(directory: Path) -> None:
    """A state-space model: it has no positions."""
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=261, hidden_size=16, num_hidden_layers=1)).save_pretrained(directory)


def without_a_tensor(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def of_an_unknown_kind(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))


def cut(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            without_template,
            "its tokenizer has no chat template; take an instruction-tuned model, or save",
        ),
        (
            with_more_tokens,
            "its tokenizer has ids up to 263, but the model embeds 261; take the tokenizer",
        ),
        (without_positions, "has no max_position_embeddings, so nobody knows how long a sequence may be; add it"),
        (
            without_a_tensor,
            "its weights lack 1 of the model's tensors, such as model.layers.1.mlp.up_proj.weight",
        ),
        (of_an_unknown_kind, "no_such_model"),
        (cut, "no model could be loaded from model.path"),
        (lambda d: shutil.rmtree(d), "Point model.path to a Hugging Face model directory"),
    ],
    ids=["template", "vocabulary", "positions", "tensor", "kind", "cut", "folder"],
)
def test_what_cannot_be_trained_is_one_sentence(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    directory = make_tiny_model(tmp_path / "model")
    spoil(directory)
    error = refused(directory)
    assert error.field == "model.path" and says in str(error)


def test_tokens_fewer_than_embeddings_are_as_in_real_models(tmp_path: Path) -> None:
    """Qwen3 embeds 151,936 ids and has 151,669 tokens."""
    directory = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    policy = Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    policy.network.resize_token_embeddings(300)  # type: ignore[operator]
    policy.save(directory)
    again = Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    assert max(tokenizer.get_vocab().values()) == 260 and loading.embeddings(again.network) == 300


# --------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "installed", "taken"),
    [
        ("auto", GPU, "bfloat16", True, "flash_attention_2"),
        ("auto", GPU, "bfloat16", False, None),
        ("auto", GPU, "float32", True, None),
        ("auto", CPU, "bfloat16", True, None),
        ("sdpa", GPU, "bfloat16", True, "sdpa"),
        ("eager", CPU, "float32", False, "eager"),
        ("flash_attention_2", GPU, "bfloat16", True, "flash_attention_2"),
    ],
)
def test_attention_is_what_was_asked_for_or_the_fastest_there_is(
    asked: Any, device: torch.device, dtype: Any, installed: bool, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: installed)
    assert attention_of(ModelSettings(attention=asked, dtype=dtype), device) == taken


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "lacks"),
    [
        (CPU, "bfloat16", True, "a GPU"),
        (GPU, "float32", True, "model.dtype=bfloat16"),
        (GPU, "bfloat16", False, "the package flash-attn"),
    ],
)
def test_flash_attention_that_cannot_be_had_is_one_sentence(
    device: torch.device, dtype: Any, installed: bool, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: installed)
    with pytest.raises(DataError, match=f"needs {lacks}; set model.attention=auto") as caught:
        attention_of(ModelSettings(attention="flash_attention_2", dtype=dtype), device)
    assert caught.value.field == "model.attention"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_asked_for_is_the_one_that_computes(tiny_model_directory: Path, attention: Any) -> None:
    policy = Policy(
        tiny_model_directory, ModelSettings(device="cpu", attention=attention), LearnerSettings(), temperature=1.0
    )
    network: Any = policy.network
    assert network.config._attn_implementation == attention and not policy.packs
