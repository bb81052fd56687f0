"""Parameters and activations of a shape, against real networks of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from cli.dry_run.memory import layer_activation_bytes
from cli.dry_run.shapes import FAMILIES, KNOWN, read_shape, shape_from, shape_of
from shared.errors import SettingsError

TOKENS = 96
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 160,
    "vocab_size": 50,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def network(config: dict[str, Any], **kwargs: Any) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **kwargs)


def parameters(config: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in network(config).parameters())


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_known_models_parameters_are_those_of_its_instance(name: str) -> None:
    assert shape_from(KNOWN[name]).parameters == parameters(KNOWN[name])


def test_the_table_has_the_published_sizes() -> None:
    """As the hub states them for the weight files of models whose head is not tied."""
    assert shape_from(KNOWN["Qwen/Qwen3-8B"]).parameters == 8_190_735_360
    assert shape_from(KNOWN["meta-llama/Llama-3.1-8B-Instruct"]).parameters == 8_030_261_248


@given(
    family=st.sampled_from([*FAMILIES, "gemma2"]),
    key_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([8, 16, 40]),
    intermediate=st.integers(8, 200),
    vocabulary=st.integers(8, 500),
    layers=st.integers(1, 3),
    tied=st.booleans(),
    bias=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_shapes_parameters_are_those_of_its_instance(
    family: str,
    key_heads: int,
    head_dim: int,
    intermediate: int,
    vocabulary: int,
    layers: int,
    tied: bool,
    bias: bool,
) -> None:
    config = SMALL | {
        "model_type": family,
        "num_key_value_heads": key_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "tie_word_embeddings": tied,
    }
    if family in ("qwen3", "llama", "mistral", "gemma2"):
        config["head_dim"] = head_dim
    else:
        del config["head_dim"]
    if family in ("qwen3", "llama", "olmo3", "gemma2"):
        config["attention_bias"] = bias
    assert shape_from(config).parameters == parameters(config)


@pytest.mark.parametrize("family", ["qwen3", "llama", "olmo3"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_layers_activations_are_what_autograd_keeps(family: str, bfloat16: bool) -> None:
    """The difference between three layers and two, weights and masks left out."""
    config = SMALL | {"model_type": family}
    if family == "olmo3":
        del config["head_dim"]
    kept = [_kept_bytes(config | {"num_hidden_layers": layers}, bfloat16) for layers in (2, 3)]
    estimate = layer_activation_bytes(shape_from(config), 2 if bfloat16 else 4)
    assert (kept[1] - kept[0]) / TOKENS == pytest.approx(estimate, rel=0.15)


def _kept_bytes(config: dict[str, Any], bfloat16: bool) -> int:
    model = network(config, attn_implementation="sdpa")
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage().data_ptr()
        # Whatever has no token axis is a cast copy of a weight, or a mask.
        if storage not in weights and TOKENS in tensor.shape and list(tensor.shape).count(TOKENS) == 1:
            kept[storage] = tensor
        return tensor

    ids = torch.randint(0, config["vocab_size"], (1, TOKENS))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        model.base_model(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_models_own_config_goes_before_the_table(tmp_path: Path) -> None:
    AutoConfig.for_model(**SMALL, model_type="qwen3").save_pretrained(tmp_path)
    shape, source = shape_of(str(tmp_path))
    assert shape.parameters == parameters(SMALL | {"model_type": "qwen3"})
    assert source == str(tmp_path / "config.json")


def test_a_hub_id_needs_no_network() -> None:
    shape, source = shape_of("Qwen/Qwen3-1.7B")
    assert shape.parameters == 1_720_574_976
    assert "table of known models" in source


def test_an_unknown_hub_id_is_refused_with_what_is_known() -> None:
    with pytest.raises(SettingsError, match=r"nobody/nothing is not known without a download.*Qwen/Qwen3-8B"):
        shape_of("nobody/nothing")


@pytest.mark.parametrize(
    ("text", "says"), [("{", "cannot be read"), (json.dumps({"model_type": "vit"}), "no 'num_attention_heads'")]
)
def test_a_config_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_shape(tmp_path / "config.json")
