"""Variational Policy Distillation (arXiv 2605.15113), Algorithm 1.

The student pi rolls out; a feedback source says what went wrong; the same network, given that text C, is the teacher
q(y|x,C). Every step the M-step distils the teacher into the student; every F-th step the E-step first refines the
teacher on outcomes. Both train the same weights; with `teacher.weights = live`, the paper's form, no second model is in
memory, and with the default `ema` the M-step distils their moving average. See docs/algorithm.md.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from shared.algorithm_settings import VPDGRPOSettings, VPDSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.e_step import AccuracyGate, Judged, OutcomeBuffer, diagnostics
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch
from trainer.objectives.bco import RewardShift, bco_loss, class_weights, implicit_reward, within_trust_region
from trainer.row_layout import taken
from trainer.scores import Sequences
from trainer.teacher import Teacher


class VPD(Algorithm):
    def __init__(self, settings: VPDSettings, tools: Tools) -> None:
        self.e = settings.e_step
        self.policy = tools.policy
        self.ranks = tools.ranks
        self.teacher = Teacher(settings.teacher, tools.policy)
        grpo = settings.grpo if isinstance(settings, VPDGRPOSettings) else None
        self.m_step = MStep(tools, settings.m_step, teacher=self.teacher, distill=settings.m_step, grpo=grpo)
        self.q = self.teacher.trained
        self.e_optimizer = tools.optimizer if self.e.optimizer == "shared" else tools.optimizer.fresh(self.q)
        self.prior = self.policy.twin() if self.e.prior == "fixed" else self.policy
        self.delta = RewardShift(self.e.delta_rate)
        self.buffer = OutcomeBuffer(self.e.buffer_steps)
        self.gate = AccuracyGate(self.e.gate_drop)

    def train_step(self, batch: Batch) -> Metrics:
        self.buffer.add(batch, self.e.outcomes)
        metrics: Metrics = {"optimizer_steps": 0.0, "e_step/gate_open": float(self.gate.open)}
        if (batch.step + 1) % self.e.every == 0 and self.gate.open:
            started = time.monotonic()
            rows = self.buffer.rows()
            for _ in range(self.e.gradient_steps if rows else 0):
                self.e_step(rows, batch.step, metrics)
            metrics |= {"e_step/rows": float(len(rows)), "seconds/e_step": time.monotonic() - started}
        after_e_step = metrics["optimizer_steps"]
        metrics |= self.m_step(batch)
        metrics["optimizer_steps"] += after_e_step
        return metrics

    def e_step(self, rows: list[Judged], step: int, metrics: Metrics) -> None:
        """min over q of L_E (Eq. 6-8): a binary classifier of outcomes on the implicit reward, anchored to pi."""
        responses = [r.response_ids for r in rows]
        with_feedback = Sequences([r.teacher_ids for r in rows], responses)
        alone = Sequences([r.prompt_ids for r in rows], responses)
        success = torch.tensor([r.success for r in rows], device=self.policy.device)
        lengths = torch.tensor([float(len(y)) for y in responses], device=self.policy.device)
        beta = self.e.beta / lengths if self.e.length_normalised else torch.full_like(lengths, self.e.beta)

        log_prior = self.prior.response_logprobs(alone)
        rounds = self.ranks.rounds(self.q, with_feedback)
        log_q = torch.zeros_like(log_prior)
        with torch.set_grad_enabled(len(rounds) == 1):  # rows that fit at once are scored once
            for part in rounds:
                scored = self._log_q(taken(with_feedback, part.mine))
                if part.counts:
                    log_q[part.mine] = scored.detach()
        log_ratio = self.ranks.sum(log_q) - log_prior
        delta = self.delta.update(beta * log_ratio, success)
        weight = class_weights(success, self.e.class_weights)
        if self.e.trust_region_nats is not None:
            weight = weight * within_trust_region(log_ratio, success, self.e.trust_region_nats)
        metrics |= diagnostics(log_ratio, beta * log_ratio, success, delta, weight, [r.sources for r in rows])

        loss = 0.0
        with self.e_optimizer.gradient_step(step, metrics, "e_step", share=self.e.learning_rate_share):
            for part in rounds:
                if weight[part.everyone].any():
                    own = part.mine
                    if len(rounds) > 1:
                        scored = self._log_q(taken(with_feedback, own))
                    reward = implicit_reward(scored, log_prior[own], beta[own])
                    term = bco_loss(reward, success[own], delta, weight[own] * part.counts)
                    term.backward()
                    loss += float(term.detach())
        metrics["e_step/loss"] = self.ranks.total(loss)

    def _log_q(self, sequences: Sequences) -> Tensor:
        """log q(y|x,C) of whole responses, [rows]."""
        scores = self.q.score(sequences)
        return scores.per_row(scores.logprobs())

    @property
    def wants_teacher_accuracy(self) -> bool:
        return self.e.gate_drop is not None

    def observe_teacher(self, accuracy: float) -> None:
        self.gate.observe(accuracy)

    def state_dict(self) -> dict[str, Any]:
        return {
            "m_step": self.m_step.state_dict(),
            "e_optimizer": self.e_optimizer.state_dict() if self.e.optimizer == "own" else None,
            "prior": self.prior.state_dict() if self.e.prior == "fixed" else None,
            "delta": self.delta.state_dict(),
            "buffer": self.buffer.state_dict(),
            "gate": self.gate.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.m_step.load_state_dict(state["m_step"])
        if self.e.optimizer == "own":
            self.e_optimizer.load_state_dict(state["e_optimizer"])
        if self.e.prior == "fixed":
            self.prior.load_state_dict(state["prior"])
        self.delta.load_state_dict(state["delta"])
        self.buffer.load_state_dict(state["buffer"])
        self.gate.load_state_dict(state["gate"])
