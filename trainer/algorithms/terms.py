"""The terms of the student's loss, token by token: what one micro-batch adds to L_M and L_GRPO (see m_step.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.algorithm_settings import DistillSettings, GRPOTerm, WeightedGRPOTerm
from trainer.algorithms.watch import Watch
from trainer.batch import Row
from trainer.objectives.policy_gradient import clipped_surrogate, outside_clip
from trainer.scores import Scores

Shape = Callable[[Tensor, Tensor, int], Tensor]
"""(advantages, log q - log pi, training step) -> the advantage of each token; all [tokens]."""


@dataclass(frozen=True)
class Rated:
    """A row, whether a teacher scores it, and its advantage among its siblings if it was judged with them."""

    row: Row
    informed: bool
    advantage: float | None = None


@dataclass(frozen=True)
class Tokens:
    """What the terms need of each response token, float32 [tokens]. Gradients flow through `log_pi` and `divergence`;
    `log_q` is `log_pi` without gradients where there is no teacher, and `divergence` is then 0."""

    log_pi: Tensor
    log_q: Tensor
    divergence: Tensor
    entropy: Tensor


class Terms:
    """The terms of one optimizer step, over the denominators of all its rows, however they are cut."""

    def __init__(
        self,
        distill: DistillSettings | None,
        grpo: GRPOTerm | None,
        shape: Shape | None,
        rows: Sequence[Rated],
        step: int,
        *,
        without_contrast: bool,
    ) -> None:
        self.distill, self.grpo, self.shape, self.step = distill, grpo, shape, step
        counted = distill is not None and distill.masked_rows == "counted"
        distilled = [r.row for r in rows if counted or r.informed]
        self.distill_rows = len(distilled)
        self.distill_tokens = sum(len(row.response_ids) for row in distilled)
        self.grpo_tokens = sum(len(r.row.response_ids) for r in rows if without_contrast or r.advantage is not None)


class TokenLoss:
    """What each token of a micro-batch adds to the loss. Either all of its rows have a teacher or none has."""

    def __init__(self, terms: Terms, scores: Scores, rows: Sequence[Rated]) -> None:
        self.terms, self.scores, self.rows = terms, scores, rows
        self.distill = terms.distill if rows[0].informed else None
        self.sampled = self._tensor([lp for r in rows for lp in r.row.sampler_logprobs])
        self.advantages = self._tensor([r.advantage or 0.0 for r in rows])[scores.row]
        self.share = self._share()

    def __call__(self, part: slice, tokens: Tokens) -> Tensor:
        """[tokens of the slice]; `tokens` are those of the slice, and gradients flow through them."""
        loss = torch.zeros_like(tokens.log_pi)
        if self.distill is not None:
            importance = self._importance(self.distill, part, tokens)
            loss = loss + self.distill.weight * importance * tokens.divergence * self.share[part]
        if self.terms.grpo is not None:
            clips = _clips(self.terms.grpo)
            surrogate = clipped_surrogate(tokens.log_pi, self.sampled[part], self._advantages(part, tokens), **clips)
            weight = self.terms.grpo.weight if isinstance(self.terms.grpo, WeightedGRPOTerm) else 1.0
            loss = loss + weight * surrogate / self.terms.grpo_tokens
        return loss

    def report(self, watch: Watch, tokens: Tokens) -> None:
        """Tell the diagnostics of all tokens of the micro-batch."""
        everything = slice(0, len(self.sampled))
        watch.tokens(self.scores, tokens.log_pi, tokens.entropy, self.sampled)
        if self.distill is not None:
            weight = self._importance(self.distill, everything, tokens)
            watch.divergence(self.scores, tokens.divergence, weight, self.distill.importance_cap)
        if self.rows[0].informed:
            watch.lift(self.scores, tokens.log_q - tokens.log_pi, [r.row for r in self.rows])
        if self.terms.grpo is not None:
            advantages = self._advantages(everything, tokens)
            watch.clipped(outside_clip(tokens.log_pi, self.sampled, advantages, **_clips(self.terms.grpo)))

    def _importance(self, settings: DistillSettings, part: slice, tokens: Tokens) -> Tensor:
        """min(pi / pi_sampler, cap), or 1 without a cap; no gradient."""
        if settings.importance_cap is None:
            return torch.ones_like(tokens.entropy)
        return (tokens.log_pi.detach() - self.sampled[part]).exp().clamp(max=settings.importance_cap)

    def _share(self) -> Tensor:
        """1 / denominator of each token: all tokens of the step, or the row's length times the rows of the step."""
        ones = torch.ones_like(self.sampled)
        if self.distill is None or self.distill.aggregation == "token_mean":
            return ones / max(self.terms.distill_tokens, 1)
        return ones / (self.scores.per_row(ones)[self.scores.row] * self.terms.distill_rows)

    def _advantages(self, part: slice, tokens: Tokens) -> Tensor:
        if self.terms.shape is None:
            return self.advantages[part]
        return self.terms.shape(self.advantages[part], tokens.log_q - tokens.log_pi.detach(), self.terms.step)

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.scores.hidden.device)


def _clips(settings: GRPOTerm) -> dict[str, float]:
    return {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
