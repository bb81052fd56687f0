"""The M-step: distil the teacher into the student, on the student's own rollouts (ALGORITHM section 3).

    L_M = mean over tokens of w_t D( pi(.|x,y_<t), sg q(.|x,C,y_<t) ),  w_t = min(pi / pi_sampler, cap), detached

Rows without a context are left out of the loss and of its denominator.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from shared.settings import DistillSettings, TeacherSettings
from trainer.algorithms.base import Metrics, Tools
from trainer.batch import Batch, Row
from trainer.objectives.divergence import forward_kl, jsd, reverse_kl, top_k_with_tail
from trainer.policy import Scores, Sequences, over_chunks
from trainer.teacher import Teacher


class Distillation:
    """One gradient step on the rows that have a context."""

    def __init__(self, settings: DistillSettings, teacher: TeacherSettings, tools: Tools) -> None:
        self.settings = settings
        self.policy = tools.policy
        self.optimizer = tools.optimizer
        self.teacher = Teacher(teacher, tools.policy)

    def __call__(self, batch: Batch) -> Metrics:
        started = time.monotonic()
        rows = [row for row in batch.rows if row.m_prompt is not None]
        metrics: Metrics = {
            "rows_trained": float(len(rows)),
            "rows_without_context": float(len(batch.rows) - len(rows)),
        }
        if rows:
            metrics |= self._update(rows, batch.step)
            self.teacher.follow()
        return metrics | {"seconds/m_step": time.monotonic() - started}

    def _update(self, rows: list[Row], step: int) -> Metrics:
        alone = Sequences([r.group.prompt_token_ids for r in rows], [r.response_ids for r in rows])
        informed = Sequences([r.m_prompt.token_ids for r in rows if r.m_prompt], [r.response_ids for r in rows])
        tokens = sum(len(r.response_ids) for r in rows)
        metrics: Metrics = {"m_step/tokens": float(tokens)}
        total = torch.zeros((), device=self.policy.device)
        weights_sum = 0.0
        with self.optimizer.gradient_step(step, metrics, "m_step"):
            for span in self.policy.spans(alone, informed):
                student = self.policy.score(alone[span])
                divergence = self._divergence(student, self.teacher.score(informed[span]))
                weight = self._importance(student, rows[span])
                share = self._share(student, tokens, len(rows))
                (weight * divergence * share).sum().backward()
                total += divergence.detach().sum()
                weights_sum += float(weight.sum())
        return metrics | {"m_step/kl": float(total) / tokens, "m_step/importance_mean": weights_sum / tokens}

    def _divergence(self, student: Scores, teacher: Scores) -> Tensor:
        """D at each response token, [tokens]."""

        def chunk(part: slice) -> Tensor:
            s, t = student.logits(part), teacher.logits(part)
            if self.settings.top_k is not None:
                s, t = top_k_with_tail(s, t, self.settings.top_k)
            if self.settings.divergence == "jsd":
                return jsd(s, t, self.settings.jsd_alpha)
            return reverse_kl(s, t) if self.settings.divergence == "reverse_kl" else forward_kl(s, t)

        return over_chunks(chunk, len(student.ids), self.policy.chunk_tokens)

    @torch.no_grad()
    def _importance(self, student: Scores, rows: list[Row]) -> Tensor:
        """min(pi / pi_sampler, cap) for each response token, [tokens]."""
        sampler = torch.tensor([lp for row in rows for lp in row.sampler_logprobs], device=self.policy.device)
        ratio = (self.policy.token_logprobs(student) - sampler).exp()
        return ratio.clamp(max=self.settings.importance_cap)

    def _share(self, student: Scores, tokens: int, rows: int) -> Tensor | float:
        """1 / denominator for each token: all tokens of the step, or the row's length times the rows of the step."""
        if self.settings.aggregation == "token_mean":
            return 1.0 / tokens
        lengths = student.per_row(torch.ones_like(student.row, dtype=torch.float32))
        return 1.0 / (lengths[student.row] * rows)

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
