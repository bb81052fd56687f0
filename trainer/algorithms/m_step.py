"""The student's step: distillation from the teacher, a policy gradient on outcomes, or both, on its own rollouts.

    L_M    = mean over tokens of w_t D( pi(.|x,y_<t), sg q(.|x,C,y_<t) ),  w_t = min(pi / pi_sampler, cap), detached
    L_GRPO = -mean over tokens of min(rho A_t, clip(rho) A_t),  rho = pi / pi_sampler

Which terms there are, and what the teacher does to the advantages A_t, is said by the algorithms beside this file.
Rows without a context, and successes where only failures are distilled, are not in L_M; unless they are to be counted,
they are not in its denominator either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shared.algorithm_settings import DistillSettings, GRPOTerm, PassSettings
from trainer.algorithms.base import Metrics, Tools
from trainer.algorithms.terms import Rated, Shape, Terms, TokenLoss, Tokens
from trainer.algorithms.watch import TokenLifts, Watch
from trainer.batch import Batch, Row
from trainer.objectives.divergence import Divergence, forward_kl, jsd, over_top_k, reverse_kl
from trainer.objectives.logprobs import chosen_logprobs, chosen_slope, entropy, log_softmax_
from trainer.objectives.policy_gradient import group_advantages
from trainer.row_layout import taken
from trainer.scores import Scores, Sequences, loss_on_logits
from trainer.teacher import Teacher


class MStep:
    """Gradient steps on the student.

    `distill` and `grpo` are its terms; None leaves one out. `shape` makes token advantages of the teacher's
    log-ratios; with `without_contrast`, rows whose siblings all had the same reward have them too. `token_lifts` are
    those of the last step.
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
        self.token_lifts: TokenLifts = {}

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
        self.token_lifts = watch.token_lifts(self.ranks)
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
        terms = Terms(self.distill, self.grpo, self.shape, rows, step, without_contrast=self.without_contrast)
        with self.optimizer.gradient_step(step, metrics, "m_step"):
            for part in ([r for r in moving if r.informed], [r for r in moving if not r.informed]):
                for own, counts, alone, informed in self._micro_batches(part):
                    student = self.policy.score(alone)
                    teacher = None if informed is None or self.teacher is None else self.teacher.score(informed)
                    token_loss = TokenLoss(terms, student, own)
                    loss, tokens = self._loss(student, teacher, token_loss)
                    (loss if counts else 0 * loss).backward()
                    if counts:
                        token_loss.report(watch, tokens)

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

    def _loss(self, student: Scores, teacher: Scores | None, token_loss: TokenLoss) -> tuple[Tensor, Tokens]:
        """The loss of a micro-batch, scalar, and what it was computed from.

        The terms are written on log pi and D of each token, and autograd takes their slope on these two; closed forms
        take it on to the logits.
        """
        # Made beforehand: small tensors kept from each call would leave the heap in holes between the large ones.
        seen = torch.empty(len(fields(Tokens)), len(student.ids), device=student.hidden.device)
        # Of p: memory that is new for each block has to be cleared for each.
        room = seen.new_empty(0)

        def on_logits(part: slice, logits: Tensor, taught: Tensor | None) -> tuple[Tensor, Tensor]:
            nonlocal room
            log_p = log_softmax_(logits)
            room = room if len(room) >= len(log_p) else torch.empty_like(log_p)
            p = torch.exp(log_p, out=room[: len(log_p)])
            log_q = None if taught is None else log_softmax_(taught)
            tokens, slope = self._tokens(p, log_p, log_q, student.ids[part])
            seen[:, part] = torch.stack([tokens.log_pi, tokens.log_q, tokens.divergence, tokens.entropy])
            with torch.enable_grad():
                leaves = tokens.log_pi.clone().requires_grad_(), tokens.divergence.clone().requires_grad_()
                loss = token_loss(part, replace(tokens, log_pi=leaves[0], divergence=leaves[1])).sum()
                by_log_pi, by_divergence = torch.autograd.grad(loss, leaves, allow_unused=True)
            if slope is not None and by_divergence is not None:
                slope.mul_(by_divergence[:, None])
            if by_log_pi is not None:
                by_choice = chosen_slope(p, student.ids[part], by_log_pi)
                slope = by_choice if slope is None else slope.add_(by_choice)
            return loss.detach(), logits.zero_() if slope is None else slope

        loss = loss_on_logits(student, teacher, on_logits)
        return loss, Tokens(*seen)

    def _tokens(self, p: Tensor, log_p: Tensor, log_q: Tensor | None, ids: Tensor) -> tuple[Tokens, Tensor | None]:
        """What the terms need, of probabilities [tokens, vocabulary], and D's slope on the logits if there is D. The
        log-probabilities are overwritten."""
        log_pi = chosen_logprobs(log_p, ids)
        of_teacher = log_pi if log_q is None else chosen_logprobs(log_q, ids)
        spread = entropy(p, log_p)
        if log_q is None or self.distill is None:
            return Tokens(log_pi, of_teacher, torch.zeros_like(log_pi), spread), None
        divergence, slope = _divergence(p, log_p, log_q, self.distill)
        return Tokens(log_pi, of_teacher, divergence, spread), slope

    def state_dict(self) -> dict[str, Any]:
        return {} if self.teacher is None else {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


def _divergence(p: Tensor, log_p: Tensor, log_q: Tensor, settings: DistillSettings) -> tuple[Tensor, Tensor]:
    """D at each token and its slope on the student's logits, of probabilities [tokens, vocabulary]."""
    divergence: Divergence = reverse_kl if settings.divergence == "reverse_kl" else forward_kl
    if settings.divergence == "jsd":
        divergence = partial(jsd, alpha=settings.jsd_alpha)
    if settings.top_k is not None:
        return over_top_k(divergence, p, log_p, log_q, settings.top_k)
    return divergence(p, log_p, log_q)


def _parts(rows: Sequence[Rated], count: int) -> Iterator[Sequence[Rated]]:
    """`count` equal runs of the rows, so that siblings stay side by side."""
    for i in range(count):
        yield rows[len(rows) * i // count : len(rows) * (i + 1) // count]
