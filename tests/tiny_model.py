"""A random Qwen3-architecture model with a byte-level tokenizer, made in a moment, for tests of what runs models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tiny_model(directory: Path, *, seed: int = 0, context: int = 128, hidden: int = 32, tied: bool = True) -> Path:
    """Write config, weights and tokenizer of a model with random weights; `tied`: the output head is the embeddings."""
    return write_model(tiny_model(seed=seed, context=context, hidden=hidden, tied=tied), directory)


def write_model(model: Any, directory: Path) -> Path:
    """Write a causal language model with the tokenizer of this file."""
    import torch

    model.generation_config.eos_token_id = SPECIAL.index("<|end|>")
    model.generation_config.pad_token_id = SPECIAL.index("<|pad|>")
    model.to(torch.float32).save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return directory


def tiny_model(*, seed: int, context: int = 128, hidden: int = 32, tied: bool = True) -> Any:
    """The bare model of `make_tiny_model`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        eos_token_id=SPECIAL.index("<|end|>"),
        pad_token_id=SPECIAL.index("<|pad|>"),
        bos_token_id=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )  # words, as real ones have: they are cached
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=CHAT_TEMPLATE
    )
