"""A causal language model's shape, and how many parameters that makes. Nothing is loaded but `config.json`.

The counts are exact for the families of `FAMILIES`; any other architecture is instantiated without memory to count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.models import resolve_model
from shared.settings import LoRASettings

QK_NORM = {"qwen3": "head", "olmo3": "projection", "olmo2": "projection"}
"""Families that normalise queries and keys: with one weight a dimension of a head, or one a dimension of all heads."""
FAMILIES = ("llama", "mistral", "qwen2", "olmo2", "olmo3", "qwen3")
HEAD_DIM = {"qwen3": 128}
"""Where a configuration without one means another than the hidden size divided among the heads."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a `config.json` that memory and arithmetic depend on."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    tied: bool
    """Whether the output head is the embedding."""
    query_key_bias: bool
    output_bias: bool
    counted: int | None = None
    """Parameters as counted on an instance; None: the family's formula is exact."""

    @property
    def queries(self) -> int:
        """Width of the queries of a token, all heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of a token, all heads; values have the same."""
        return self.kv_heads * self.head_dim

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's matrices by their names in transformers."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def layer_parameters(self) -> int:
        """Of one layer: matrices, biases and norms."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linear_shapes.values())
        biases = self.query_key_bias * (self.queries + 2 * self.keys) + self.output_bias * self.hidden
        kind = QK_NORM.get(self.family)
        query_key_norms = {None: 0, "head": 2 * self.head_dim, "projection": self.queries + self.keys}[kind]
        return matrices + biases + query_key_norms + 2 * self.hidden

    def adapter_parameters(self, lora: LoRASettings) -> int:
        """Of an adapter: rank x (inputs + outputs) for each matrix that has one."""
        targets = self.linear_shapes if lora.targets is None else lora.targets
        sizes = [self.linear_shapes[name] for name in targets if name in self.linear_shapes]
        return self.layers * lora.rank * sum(map(sum, sizes))

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of an output head of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them; tied weights count once."""
        if self.counted is not None:
            return self.counted
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden


def shape_of(model_path: str) -> tuple[ModelShape, str]:
    """The shape of `model.path`, and where it was found: its config.json, the hub's cache, or the table below.

    Raises SettingsError where there is no such model, its config.json cannot be used, or it is a hub id that is neither
    cached nor known.
    """
    found = resolve_model(model_path)
    if isinstance(found, Path):
        return read_shape(found / "config.json"), f"{found / 'config.json'}"
    cached = _cached_config(found)
    if cached is not None:
        return read_shape(cached), "config.json in the hub's cache"
    if found in KNOWN:
        return shape_from(KNOWN[found]), "the table of known models; nothing was downloaded"
    raise SettingsError(
        f"model.path: the shape of {found} is not known without a download; name a directory that holds it, or one of "
        f"{', '.join(sorted(KNOWN))}."
    )


def read_shape(file: Path) -> ModelShape:
    """The shape in a config.json. Raises SettingsError where it cannot be used."""
    try:
        return shape_from(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SettingsError(f"model.path: {file} cannot be read: {error}.") from None
    except KeyError as error:
        raise SettingsError(f"model.path: {file} has no {error}: it is not a causal language model's.") from None


def shape_from(config: dict[str, Any]) -> ModelShape:
    """The shape a configuration describes. Raises KeyError for a number that is missing."""
    family = config["model_type"]
    heads = config["num_attention_heads"]
    bias = config.get("attention_bias", family == "qwen2")
    shape = ModelShape(
        family=family,
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or HEAD_DIM.get(family, config["hidden_size"] // heads),
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        tied=config.get("tie_word_embeddings", True),
        query_key_bias=bias,
        output_bias=bias and family != "qwen2",
    )
    exact = family in FAMILIES and not config.get("mlp_bias", False)
    return shape if exact else _with_count(shape, config)


def _with_count(shape: ModelShape, config: dict[str, Any]) -> ModelShape:
    """The same with the parameters of an instance on torch's device without memory; takes seconds to import."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = AutoConfig.for_model(**config)
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(kind)  # type: ignore[no-untyped-call]
    return replace(shape, counted=sum(parameter.numel() for parameter in network.parameters()))


def _cached_config(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found) if isinstance(found, str) else None


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, positions: int, *, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": intermediate,
        "vocab_size": 151_936,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
    }


KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, 40_960, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, 40_960, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, 40_960, tied=True),
    "Qwen/Qwen3-4B-Base": _qwen3(2560, 36, 32, 9728, 32_768, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, 40_960, tied=False),
    "allenai/Olmo-3-7B-Instruct": {
        "model_type": "olmo3",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11_008,
        "vocab_size": 100_278,
        "max_position_embeddings": 65_536,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    },
}
"""The published configurations' numbers, for models that are named in recipes and not at hand."""
