"""How rows of different lengths become one tensor for the network, and which rows share a forward pass.

Padded: a rectangle, as wide as its longest row. Packed: one line without padding, for attention that is told where each
row begins. The order of rows within a pass means nothing to a loss, so rows of like length should share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trainer.scores import Sequences


@dataclass(frozen=True)
class Layout:
    """Arguments of the network, tensors int64 on the CPU but for `cu_seq_lens_*` (int32); `starts`: where each row's
    first token stands once the tokens are one line, [rows]."""

    inputs: dict[str, Any]
    starts: list[int]

    def to(self, device: torch.device) -> dict[str, Any]:
        """The arguments on `device`."""
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.inputs.items()}


def padded(rows: Sequence[Sequence[int]]) -> Layout:
    """Token ids -> `input_ids` and `attention_mask`, [rows, longest row], padded on the right."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return Layout({"input_ids": ids, "attention_mask": mask}, [i * width for i in range(len(rows))])


def packed(rows: Sequence[Sequence[int]]) -> Layout:
    """Token ids -> `input_ids` and `position_ids`, [1, all tokens], and the boundaries that flash attention reads.

    Other kinds of attention read the boundaries off the positions: transformers masks where they begin anew.
    """
    lengths = [len(row) for row in rows]
    boundaries = list(accumulate(lengths, initial=0))
    cumulative = torch.tensor(boundaries, dtype=torch.int32)
    inputs = {
        "input_ids": torch.tensor([[token for row in rows for token in row]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    return Layout(inputs, boundaries[:-1])


def by_length(*aligned: Sequences) -> list[int]:
    """Indices of the rows, longest first, by the longest of their sequences; equal ones keep their order.

    Longest first, so that memory runs out in the first pass if at all.
    """
    longest = [max(of_row) for of_row in _lengths(aligned)]
    return sorted(range(len(longest)), key=longest.__getitem__, reverse=True)


def taken(sequences: Sequences, indices: Sequence[int]) -> Sequences:
    """Those rows, in that order."""
    return Sequences([sequences.prompts[i] for i in indices], [sequences.responses[i] for i in indices])


def spans(aligned: Sequence[Sequences], limit: int, *, packs: bool) -> Iterator[slice]:
    """Slices of rows, in order, such that each of the aligned sequences has at most `limit` tokens, padding included
    unless it `packs`; a row that is longer than that has a slice of its own."""
    lengths = _lengths(aligned)
    start = 0
    longest = total = [0] * len(aligned)
    for i, of_row in enumerate(lengths):
        longest = [max(pair) for pair in zip(longest, of_row, strict=True)]
        total = [a + b for a, b in zip(total, of_row, strict=True)]
        tokens = max(total) if packs else max(longest) * (i + 1 - start)
        if i > start and tokens > limit:
            yield slice(start, i)
            start, longest, total = i, list(of_row), list(of_row)
    if lengths:
        yield slice(start, len(lengths))


def _lengths(aligned: Sequence[Sequences]) -> list[tuple[int, ...]]:
    """Tokens of each row's sequences, [rows][aligned]."""
    each = ([len(p) + len(r) for p, r in zip(s.prompts, s.responses, strict=True)] for s in aligned)
    return list(zip(*each, strict=True))
