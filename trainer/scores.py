"""What a forward pass gives: the hidden states that predict the response tokens. No model is loaded here.

Logits are never built for a whole batch: `Scores` makes those of a slice of response tokens when asked, so that memory
is bounded by `chunk_tokens` x vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Sequences:
    """Prompts and the responses to score after them; one entry a row."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Sequences:
        return Sequences(self.prompts[part], self.responses[part])


@dataclass
class Scores:
    """Hidden states at the positions that predict each response token; rows concatenated.

    `hidden` [tokens, width]; `ids` int64 [tokens], the response tokens; `row` int64 [tokens], their row's index.
    """

    head: Callable[[Tensor], Tensor]
    hidden: Tensor
    ids: Tensor
    row: Tensor
    rows: int

    def logits(self, part: slice) -> Tensor:
        """float32 logits [tokens of the slice, vocabulary], divided by the sampling temperature."""
        return self.head(self.hidden[part])

    def per_row(self, values: Tensor) -> Tensor:
        """Sum of token values [tokens] within each row, [rows]."""
        return torch.zeros(self.rows, dtype=values.dtype, device=values.device).index_add(0, self.row, values)


def over_chunks(function: Callable[[slice], Tensor], length: int, chunk: int) -> Tensor:
    """Concatenate function(slice) over slices of `length`; logits are recomputed in the backward pass, not kept."""
    parts = []
    for start in range(0, length, chunk):
        part = slice(start, min(start + chunk, length))
        if length <= chunk or not torch.is_grad_enabled():
            parts.append(function(part))
        else:
            parts.append(checkpoint(function, part, use_reentrant=False))
    return torch.cat(parts) if parts else torch.zeros(0)
