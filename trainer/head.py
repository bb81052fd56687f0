"""The head: from hidden states to logits, and back, a chunk of tokens at a time.

[tokens, vocabulary] never exists, neither as logits nor as their gradient: a chunk's logits are made, overwritten by a
loss's slope on them, and the slope goes through the head at once. No objective is known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from trainer.logits import AS_IS, LogitShape

CHUNK_BYTES = 128 * 2**20
"""Of a chunk's float32 logits at most, 220 tokens of a vocabulary of 150,000; student's and teacher's exist at once."""
CPU_CHUNK_BYTES = 80 * 2**20
"""The same on a CPU, whose products are no slower with that."""
BLOCK_BYTES = 8 * 2**20
"""What a CPU works on between two matrix products: a few tokens, whose logits then stay in its cache."""


class Head:
    """Hidden states [tokens, width] -> float32 logits [tokens, vocabulary], divided by the sampling temperature.

    `weight` [vocabulary, width] is the matrix where the head is that and no more. Of any other (a module with a bias,
    shards, logits that are capped) it is None: the module is then called, and its gradients are autograd's.
    """

    def __init__(self, module: nn.Module, temperature: float, *, bfloat16: bool, shape: LogitShape = AS_IS) -> None:
        self.module = module
        self.shape = shape
        self.temperature = temperature
        self.bfloat16 = bfloat16
        plain = _is_plain(module) and shape == AS_IS
        self.weight: Tensor | None = module.weight if plain else None  # type: ignore[assignment]

    def __call__(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
        """Without gradients, logits stand in the first rows of `room` if there is any."""
        if self.weight is not None and not torch.is_grad_enabled():
            out = None if room is None else room[: len(hidden)]
            return self._tempered(torch.mm(hidden.to(self._matrix.dtype), self._matrix.T, out=out).float())
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits: Tensor = self.module(hidden)
        return self.shape(logits.float()) / self.temperature

    def room(self, tokens: int) -> Tensor | None:
        """Room for the logits of `tokens` tokens, to be used for one chunk after another: memory that is new for each
        has to be cleared for each. None where products are not made in float32, or by a module."""
        if self.weight is None or self._matrix.dtype != torch.float32:
            return None
        return self._matrix.new_empty(tokens, len(self._matrix))

    @torch.no_grad()
    def gradients(
        self, hidden: Tensor, chunk: int, overwrite: Callable[[slice, Tensor], None]
    ) -> tuple[Tensor | None, Tensor | None]:
        """A loss's gradients on `hidden` [tokens, width] and on `weight`; None for one that takes none.

        `overwrite(tokens, logits)` puts the loss's slope on the logits of a chunk in their place. The weight's gradient
        is summed over chunks in float32, whatever the products are in.
        """
        assert self.weight is not None
        on_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        on_weight = torch.zeros_like(self.weight, dtype=torch.float32) if self.weight.requires_grad else None
        room = self.room(min(chunk, len(hidden)))
        for part in slices(len(hidden), chunk):
            logits = self(hidden[part], room)
            overwrite(part, logits)
            slope = self._tempered(logits).to(self._matrix.dtype)
            if on_hidden is not None:
                on_hidden[part] = slope @ self._matrix
            if on_weight is not None:
                _add_product(on_weight, slope, hidden[part].to(slope.dtype))
        return on_hidden, None if on_weight is None else on_weight.to(self.weight.dtype)

    @cached_property
    def _matrix(self) -> Tensor:
        """The weight in the dtype of the products: cast once, not for every chunk."""
        assert self.weight is not None
        return self.weight.detach().to(torch.bfloat16 if self.bfloat16 else self.weight.dtype)

    def _tempered(self, values: Tensor) -> Tensor:
        return values if self.temperature == 1 else values.div_(self.temperature)


def chunk_tokens(vocabulary: int, most: int, tokens: int, device: torch.device) -> int:
    """Tokens in a chunk: `most`, or fewer where their logits would be too many bytes. Then the chunks of `tokens` are
    of one size."""
    fit = max(1, (CPU_CHUNK_BYTES if device.type == "cpu" else CHUNK_BYTES) // (4 * vocabulary))
    if fit >= most:
        return most
    tokens = max(1, tokens)
    return math.ceil(tokens / math.ceil(tokens / fit))


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `length`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of a chunk's tokens [tokens, vocabulary] to compute on at once; on a GPU the whole chunk."""
    size = BLOCK_BYTES // (4 * logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    return slices(len(logits), max(1, size))


def _is_plain(module: nn.Module) -> bool:
    # A parameter of another type is sharded or quantised; a hook may change what comes out.
    if type(module) is not nn.Linear or module.bias is not None or type(module.weight) is not nn.Parameter:
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """total += slope^T hidden, [vocabulary, width]."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, hidden)
        return
    # An eighth of the vocabulary at a time: the product in the lower precision is a tensor of the weight's size.
    for rows in slices(len(total), -(-len(total) // 8)):
        total[rows] += slope[:, rows].T @ hidden
