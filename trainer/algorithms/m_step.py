"""The student's step: distillation from the teacher, a policy gradient on outcomes, or both, on its own rollouts.

    L_M    = mean over tokens of w_t D( pi(.|x,y_<t), sg q(.|x,C,y_<t) ),  w_t = min(pi / pi_sampler, cap), detached
    L_GRPO = -mean over tokens of min(rho A_t, clip(rho) A_t),  rho = pi / pi_sampler

Which terms there are, and what the teacher does to the advantages A_t, is said by the algorithms beside this file.
Rows without a context, and successes where only failures are distilled, are not in L_M; unless they are to be counted,
they are not in its denominator either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from shared.algorithm_settings import DistillSettings, GRPOTerm, PassSettings, WeightedGRPOTerm
from trainer.algorithms.base import Metrics, Tools
from trainer.algorithms.watch import Watch
from trainer.batch import Batch, Row
from trainer.objectives.divergence import forward_kl, jsd, reverse_kl, top_k_with_tail
from trainer.objectives.policy_gradient import clipped_surrogate, group_advantages, outside_clip
from trainer.row_layout import taken
from trainer.scores import Scores, Sequences, over_chunks
from trainer.teacher import Teacher

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
    """What the losses need of each response token, float32 [tokens]. Gradients flow through `log_pi` and `divergence`;
    `log_q` is `log_pi` without gradients where there is no teacher, and `divergence` is then 0."""

    log_pi: Tensor
    log_q: Tensor
    divergence: Tensor
    entropy: Tensor


class MStep:
    """Gradient steps on the student.

    `distill` and `grpo` are its terms; None leaves one out. `shape` makes token advantages of the teacher's
    log-ratios; with `without_contrast`, rows whose siblings all had the same reward have them too.
    """

    def __init__(
        self,
        tools: Tools,
        passes: PassSettings,
        *,
        teacher: Teacher | None = None,
        distill: DistillSettings | None = None,
        grpo: GRPOTerm | None = None,
        shape: Shape | None = None,
        without_contrast: bool = False,
    ) -> None:
        self.policy = tools.policy
        self.optimizer = tools.optimizer
        self.ranks = tools.ranks
        self.passes = passes
        self.teacher = teacher
        self.distill = distill if distill is not None and distill.weight > 0 else None
        self.grpo = grpo
        self.shape = shape
        self.without_contrast = without_contrast

    def __call__(self, batch: Batch) -> Metrics:
        started = time.monotonic()
        rows = self._rated(batch)
        trained = [rated for rated in rows if self._moves(rated)]
        watch = Watch()
        metrics: Metrics = {
            "rows_trained": float(len(trained)),
            "rows_without_context": float(sum(r.m_prompt is None for r in batch.rows)) if self.teacher else 0.0,
            "optimizer_steps": 0.0,
        }
        if self.grpo is not None:
            judged = [r for r in rows if r.advantage is not None]
            flat = sum(r.advantage == 0 for r in judged)
            metrics["m_step/groups_without_signal"] = flat / len(judged) if judged else 1.0
        if trained:
            for _ in range(self.passes.epochs):
                for part in _parts(rows, self.passes.minibatches):
                    self._update(part, batch.step, metrics, watch)
        if self.teacher is not None:
            self.teacher.follow(batch)
        return metrics | watch.metrics(self.ranks) | {"seconds/m_step": time.monotonic() - started}

    def _rated(self, batch: Batch) -> list[Rated]:
        """All rows with a response; those sampled for this step and judged have an advantage where a term wants one."""
        rows = [row for row in batch.rows if row.response_ids]
        if self.grpo is None:
            return [Rated(row, self._informed(row)) for row in rows]
        judged = [row for row in rows if not row.late and row.trajectory.reward is not None]
        labels = {group: i for i, group in enumerate(dict.fromkeys(r.group.group_id for r in judged))}
        rewards = torch.tensor([float(r.trajectory.reward or 0.0) for r in judged])
        groups = torch.tensor([labels[r.group.group_id] for r in judged])
        advantages = group_advantages(rewards, groups, normalise_std=self.grpo.normalise_std).tolist()
        known = {id(row): advantage for row, advantage in zip(judged, advantages, strict=True)}
        return [Rated(row, self._informed(row), known.get(id(row))) for row in rows]

    def _moves(self, rated: Rated) -> bool:
        """Whether any term has a gradient on the row."""
        if rated.informed and (self.distill is not None or self.without_contrast):
            return True
        return self.grpo is not None and bool(rated.advantage)

    def _update(self, rows: Sequence[Rated], step: int, metrics: Metrics, watch: Watch) -> None:
        """One optimizer step. The denominators are of all of `rows`, however they are cut into micro-batches."""
        moving = [rated for rated in rows if self._moves(rated)]
        if not moving:
            return
        losses, unwatched = (_Losses(self, rows, step, seen) for seen in (watch, Watch()))
        with self.optimizer.gradient_step(step, metrics, "m_step"):
            for part in ([r for r in moving if r.informed], [r for r in moving if not r.informed]):
                for own, counts, alone, informed in self._micro_batches(part):
                    student = self.policy.score(alone)
                    teacher = None if informed is None or self.teacher is None else self.teacher.score(informed)
                    loss = (losses if counts else unwatched)(student, self._tokens(student, teacher), own)
                    (loss if counts else 0 * loss).backward()

    def _informed(self, row: Row) -> bool:
        left_out = self.distill is not None and self.distill.outcomes == "failures" and row.success is True
        return self.teacher is not None and row.m_prompt is not None and not left_out

    def _micro_batches(
        self, part: Sequence[Rated]
    ) -> Iterator[tuple[Sequence[Rated], bool, Sequences, Sequences | None]]:
        """This rank's rows, whether they count, the student's sequences and, for rows with a context, the teacher's."""
        if not part:
            return
        responses = [r.row.response_ids for r in part]
        alone = Sequences([r.row.group.prompt_token_ids for r in part], responses)
        informed = None
        if part[0].informed:
            informed = Sequences([r.row.m_prompt.token_ids for r in part if r.row.m_prompt], responses)
        for own in self.ranks.rounds(self.policy, alone, *([] if informed is None else [informed])):
            of_teacher = None if informed is None else taken(informed, own.mine)
            yield [part[i] for i in own.mine], own.counts, taken(alone, own.mine), of_teacher

    def _tokens(self, student: Scores, teacher: Scores | None) -> Tokens:
        def chunk(part: slice) -> Tensor:
            log_s = log_softmax(student.logits(part), -1)
            chosen = student.ids[part, None]
            log_pi = log_s.gather(-1, chosen)[:, 0]
            entropy = torch.special.entr(log_s.detach().exp()).sum(-1)
            log_q, divergence = log_pi.detach(), torch.zeros_like(log_pi)
            if teacher is not None:
                with torch.no_grad():  # its head may be the student's own
                    log_t = log_softmax(teacher.logits(part), -1)
                log_q = log_t.gather(-1, chosen)[:, 0]
                if self.distill is not None:
                    divergence = _divergence(log_s, log_t, self.distill)
            return torch.stack([log_pi, log_q, divergence, entropy], -1)

        columns = over_chunks(chunk, len(student.ids), self.policy.chunk_tokens)
        log_pi, log_q, divergence, entropy = columns.unbind(-1)
        return Tokens(log_pi, log_q.detach(), divergence, entropy.detach())

    def state_dict(self) -> dict[str, Any]:
        return {} if self.teacher is None else {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


class _Losses:
    """The terms of one optimizer step, each over the denominator of all its rows."""

    def __init__(self, m_step: MStep, rows: Sequence[Rated], step: int, watch: Watch) -> None:
        self.distill, self.grpo, self.shape = m_step.distill, m_step.grpo, m_step.shape
        self.step = step
        self.watch = watch
        self.device = m_step.policy.device
        self.grpo_tokens = sum(len(r.row.response_ids) for r in rows if r.advantage is not None)
        if m_step.without_contrast:
            self.grpo_tokens = sum(len(r.row.response_ids) for r in rows)
        counted = self.distill is not None and self.distill.masked_rows == "counted"
        distilled = [r.row for r in rows if counted or r.informed]
        self.distill_tokens = sum(len(row.response_ids) for row in distilled)
        self.distill_rows = len(distilled)

    def __call__(self, scores: Scores, tokens: Tokens, rows: Sequence[Rated]) -> Tensor:
        """Scalar: the loss of these rows, whose tokens are concatenated."""
        sampled = self._tensor([lp for r in rows for lp in r.row.sampler_logprobs])
        self.watch.tokens(scores, tokens.log_pi, tokens.entropy, sampled)
        loss = tokens.log_pi.new_zeros(())
        if self.distill is not None and rows[0].informed:
            loss = loss + self._distillation(self.distill, scores, tokens, sampled)
        if rows[0].informed:
            self.watch.lift(scores, tokens.log_q - tokens.log_pi.detach(), [r.row.success for r in rows])
        if self.grpo is not None:
            loss = loss + self._policy_gradient(self.grpo, scores, tokens, sampled, rows)
        return loss

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _distillation(self, settings: DistillSettings, scores: Scores, tokens: Tokens, sampled: Tensor) -> Tensor:
        weight = (tokens.log_pi.detach() - sampled).exp()
        weight = (
            torch.ones_like(weight) if settings.importance_cap is None else weight.clamp(max=settings.importance_cap)
        )
        self.watch.divergence(scores, tokens.divergence.detach(), weight, settings.importance_cap)
        return settings.weight * (weight * tokens.divergence * self._share(settings, scores)).sum()

    def _share(self, settings: DistillSettings, scores: Scores) -> Tensor | float:
        """1 / denominator for each token: all tokens of the step, or the row's length times the rows of the step."""
        if settings.aggregation == "token_mean":
            return 1.0 / self.distill_tokens
        lengths = scores.per_row(torch.ones_like(scores.row, dtype=torch.float32))
        return 1.0 / (lengths[scores.row] * self.distill_rows)

    def _policy_gradient(
        self, settings: GRPOTerm, scores: Scores, tokens: Tokens, sampled: Tensor, rows: Sequence[Rated]
    ) -> Tensor:
        advantages = self._tensor([r.advantage or 0.0 for r in rows])[scores.row]
        if self.shape is not None:
            advantages = self.shape(advantages, tokens.log_q - tokens.log_pi.detach(), self.step)
        clips = {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
        self.watch.clipped(outside_clip(tokens.log_pi.detach(), sampled, advantages, **clips))
        weight = settings.weight if isinstance(settings, WeightedGRPOTerm) else 1.0
        return weight * clipped_surrogate(tokens.log_pi, sampled, advantages, **clips).sum() / self.grpo_tokens


def _divergence(student: Tensor, teacher: Tensor, settings: DistillSettings) -> Tensor:
    """D at each token, [tokens], of log-probabilities [tokens, vocabulary]."""
    if settings.top_k is not None:
        student, teacher = top_k_with_tail(student, teacher, settings.top_k)
    if settings.divergence == "jsd":
        return jsd(student, teacher, settings.jsd_alpha)
    return reverse_kl(student, teacher) if settings.divergence == "reverse_kl" else forward_kl(student, teacher)


def _parts(rows: Sequence[Rated], count: int) -> Iterator[Sequence[Rated]]:
    """`count` equal runs of the rows, so that siblings stay side by side."""
    for i in range(count):
        yield rows[len(rows) * i // count : len(rows) * (i + 1) // count]
