"""Diagnostics of the student's step, summed over micro-batches: what to look at when a run goes wrong.

Nothing here has a gradient, and no loss depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from trainer.batch import Row
from trainer.ranks import ALONE, Ranks, Sums
from trainer.scores import Scores

QUARTERS = 4
TokenLifts = dict[str, list[float]]
"""By trajectory id: log q - log pi of each response token, in nats; only of rows that a teacher has scored."""


class Watch:
    """Means over everything one training step has scored, by metric."""

    def __init__(self) -> None:
        self._sums: Sums = {}
        self._token_lifts: TokenLifts = {}

    def metrics(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """The means over all ranks; a metric that nothing was seen of is left out."""
        return {name: total / count for name, (total, count) in ranks.merged(self._sums).items() if count > 0}

    def token_lifts(self, ranks: Ranks = ALONE) -> TokenLifts:
        """The lift of each token, by row, of all ranks."""
        return {row: lifts for found in ranks.gathered(self._token_lifts) for row, lifts in found.items()}

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

    def lift(self, scores: Scores, log_ratio: Tensor, rows: Sequence[Row]) -> None:
        """log q - log pi under the M-step's contexts, in nats: of each token, and of whole responses by outcome and by
        the sources whose text the teacher saw. Rows that come again, in another epoch, are left out."""
        new = [i for i, row in enumerate(rows) if row.trajectory.trajectory_id not in self._token_lifts]
        of_tokens, ends = log_ratio.tolist(), list(accumulate(len(row.response_ids) for row in rows))
        for i in new:
            own = of_tokens[ends[i] - len(rows[i].response_ids) : ends[i]]
            self._token_lifts[rows[i].trajectory.trajectory_id] = own
        whole = scores.per_row(log_ratio)
        for name, wanted in (("success", True), ("failure", False)):
            chosen = [i for i in new if rows[i].success is wanted]
            self._add(f"teacher/{name}_lift_nats", whole[chosen])
            for source in sorted({source for i in chosen for source in _sources(rows[i])}):
                its_own = [i for i in chosen if source in _sources(rows[i])]
                self._add(f"source/{source}/{name}_lift_nats", whole[its_own])

    def clipped(self, outside: Tensor) -> None:
        """Share of tokens that the clipped surrogate leaves without a gradient."""
        self._add("m_step/clipped_share", outside.float())

    def _add(self, name: str, values: Tensor) -> None:
        total, count = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + float(values.sum()), count + values.numel())


def _sources(row: Row) -> tuple[str, ...]:
    """Whose text stands in the row's teacher prompt."""
    return row.m_prompt.sources if row.m_prompt is not None else ()


def _quarters(scores: Scores) -> Tensor:
    """Which quarter of its response each token stands in, int64 [tokens]; rows are concatenated."""
    lengths = scores.per_row(torch.ones_like(scores.row, dtype=torch.float32)).long()
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(len(scores.row), device=scores.row.device) - starts[scores.row]
    return position * QUARTERS // lengths[scores.row]
