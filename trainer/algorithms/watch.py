"""Diagnostics of the student's step, summed over micro-batches: what to look at when a run goes wrong.

Nothing here has a gradient, and no loss depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.ranks import ALONE, Ranks, Sums
from trainer.scores import Scores

QUARTERS = 4


class Watch:
    """Means over everything one training step has scored, by metric."""

    def __init__(self) -> None:
        self._sums: Sums = {}

    def metrics(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """The means over all ranks; a metric that nothing was seen of is left out."""
        return {name: total / count for name, (total, count) in ranks.merged(self._sums).items() if count > 0}

    def tokens(self, scores: Scores, log_pi: Tensor, entropy: Tensor, sampled: Tensor) -> None:
        """Entropy of the student in nats a token; how far it has moved from the sampler; response length."""
        self._add("m_step/entropy", entropy)
        self._add("m_step/kl_to_sampler", sampled - log_pi.detach())
        self._add("m_step/length", scores.per_row(torch.ones_like(entropy)))

    def divergence(self, scores: Scores, divergence: Tensor, weight: Tensor, cap: float | None) -> None:
        """D(student, teacher) in nats a token, over all and by quarter of the response; the importance weights."""
        self._add("m_step/kl", divergence)
        self._add("m_step/importance_mean", weight)
        if cap is not None:
            self._add("m_step/importance_capped", (weight >= cap).float())
        quarter = _quarters(scores)
        for q in range(QUARTERS):
            self._add(f"m_step/kl_quarter_{q + 1}", divergence[quarter == q])

    def lift(self, scores: Scores, log_ratio: Tensor, success: Sequence[bool | None]) -> None:
        """log q - log pi of whole responses under the M-step's contexts, in nats, by outcome."""
        rows = scores.per_row(log_ratio)
        for name, wanted in (("success", True), ("failure", False)):
            chosen = torch.tensor([s is wanted for s in success], device=rows.device)
            self._add(f"teacher/{name}_lift_nats", rows[chosen])

    def clipped(self, outside: Tensor) -> None:
        """Share of tokens that the clipped surrogate leaves without a gradient."""
        self._add("m_step/clipped_share", outside.float())

    def _add(self, name: str, values: Tensor) -> None:
        total, count = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + float(values.sum()), count + values.numel())


def _quarters(scores: Scores) -> Tensor:
    """Which quarter of its response each token stands in, int64 [tokens]; rows are concatenated."""
    lengths = scores.per_row(torch.ones_like(scores.row, dtype=torch.float32)).long()
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(len(scores.row), device=scores.row.device) - starts[scores.row]
    return position * QUARTERS // lengths[scores.row]
