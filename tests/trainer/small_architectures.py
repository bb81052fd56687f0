"""Small random models of several architectures, each with what sets it apart from the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_model import SPECIAL, write_model

_COMMON: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
_OF_EACH: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "Llama": {"tie_word_embeddings": False, "attention_bias": True},
    # Windows shorter than the rows, so that a mask that forgets them shows.
    "Olmo3": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "Gemma2": {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    "Gemma3": {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
}
ARCHITECTURES = list(_OF_EACH)


def make_small_model(directory: Path, architecture: str, **config: Any) -> Path:
    """Write a random model of that architecture; `config` overrides its configuration."""
    kind = "Gemma3Text" if architecture == "Gemma3" else architecture
    settings = getattr(transformers, f"{kind}Config")(**_COMMON | _OF_EACH[architecture] | config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{architecture}ForCausalLM")(settings)
    return write_model(model.eval(), directory)
