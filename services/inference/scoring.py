"""Log-probs of given tokens under a causal language model, with memory bounded by `CHUNK_TOKENS` x vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from services.inference.decoding import Cancelled

CHUNK_TOKENS = 1024
"""Tokens whose logits exist at once."""


@torch.inference_mode()
def score(
    model: Any, sequences: Sequence[Sequence[int]], *, max_rows: int, cancelled: Callable[[], bool] = lambda: False
) -> list[list[float]]:
    """Log-probs at temperature 1 of the tokens of each sequence (two or more) after its first.

    Raises Cancelled when `cancelled()` turns true.
    """
    # Sequences of like length share a batch, so that little of it is padding.
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    rows = min(max_rows, CHUNK_TOKENS)
    scores: dict[int, list[float]] = {}
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        scores |= zip(part, _batch(model, [sequences[index] for index in part], cancelled), strict=True)
    return [scores[index] for index in range(len(sequences))]


def _batch(model: Any, sequences: Sequence[Sequence[int]], cancelled: Callable[[], bool]) -> list[list[float]]:
    width = max(map(len, sequences))
    # Padding stands after a sequence, where a causal model does not look.
    ids = torch.tensor([[*s, *[0] * (width - len(s))] for s in sequences], device=model.device)
    cache = DynamicCache(config=model.config)
    step = max(1, CHUNK_TOKENS // len(sequences))
    parts = []
    for start in range(0, width - 1, step):
        if cancelled():
            raise Cancelled
        end = min(start + step, width - 1)
        logits = model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True).logits
        logprobs = torch.log_softmax(logits.float(), -1)
        parts.append(logprobs.gather(-1, ids[:, start + 1 : end + 1, None])[..., 0])
    values = torch.cat(parts, 1).tolist()
    return [row[: len(sequence) - 1] for row, sequence in zip(values, sequences, strict=True)]
