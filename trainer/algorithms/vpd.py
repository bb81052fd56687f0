"""Variational Policy Distillation (arXiv 2605.15113), Algorithm 1.

The student pi rolls out; a feedback source says what went wrong; the same network, given that text C, is the teacher
q(y|x,C). Every step the M-step distils the teacher into the student; every F-th step the E-step first refines the
teacher on outcomes. Both train the same weights; with `teacher.weights = live`, the paper's form, no second model is in
memory, and with the default `ema` the M-step distils their moving average. See docs/algorithm.md.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import torch

from shared.settings import VPDSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.distillation import Distillation
from trainer.batch import Batch
from trainer.objectives.bco import RewardShift, bco_loss, class_weights, implicit_reward, within_trust_region
from trainer.policy import Sequences


@dataclass(frozen=True)
class Judged:
    """What the E-step needs of a row with an outcome and a context: plain, so that it fits into a checkpoint."""

    prompt_ids: list[int]
    teacher_ids: list[int]
    response_ids: list[int]
    success: bool


class VPD(Algorithm):
    def __init__(self, settings: VPDSettings, tools: Tools) -> None:
        self.e = settings.e_step
        self.policy = tools.policy
        self.m_step = Distillation(settings.m_step, settings.teacher, tools)
        self.e_optimizer = tools.optimizer if self.e.optimizer == "shared" else tools.new_optimizer()
        self.prior = tools.policy.twin() if self.e.prior == "fixed" else tools.policy
        self.delta = RewardShift(self.e.delta_rate)
        self.buffer: deque[list[Judged]] = deque(maxlen=self.e.buffer_steps)

    def train_step(self, batch: Batch) -> Metrics:
        self.buffer.append(_judged(batch))
        metrics: Metrics = {}
        started = time.monotonic()
        if (batch.step + 1) % self.e.every == 0:
            rows = [row for kept in self.buffer for row in kept]
            for _ in range(self.e.gradient_steps if rows else 0):
                metrics |= self.e_step(rows, batch.step)
            metrics |= {"e_step/rows": float(len(rows)), "seconds/e_step": time.monotonic() - started}
        return metrics | self.m_step(batch)

    def e_step(self, rows: list[Judged], step: int) -> Metrics:
        """min over q of L_E (Eq. 6-8): a binary classifier of outcomes on the implicit reward, anchored to pi."""
        with_feedback = Sequences([r.teacher_ids for r in rows], [r.response_ids for r in rows])
        alone = Sequences([r.prompt_ids for r in rows], [r.response_ids for r in rows])
        success = torch.tensor([r.success for r in rows], device=self.policy.device)
        scale = self.e.beta / self._lengths(rows) if self.e.length_normalised else self.e.beta

        log_prior = self.prior.response_logprobs(alone)
        log_ratio = self.policy.response_logprobs(with_feedback) - log_prior
        reward = scale * log_ratio
        delta = self.delta.update(reward, success)
        weight = class_weights(success, self.e.class_weights)
        if self.e.trust_region_nats is not None:
            weight = weight * within_trust_region(log_ratio, success, self.e.trust_region_nats)
        metrics = diagnostics(log_ratio, reward, success, delta, weight)

        share = self.e.learning_rate_share
        with self.e_optimizer.gradient_step(step, metrics, "e_step", share=share):
            for span in self.policy.spans(with_feedback):
                if not weight[span].any():
                    continue
                scores = self.policy.score(with_feedback[span])
                log_q = scores.per_row(self.policy.token_logprobs(scores))
                beta = scale[span] if isinstance(scale, torch.Tensor) else scale
                loss = bco_loss(implicit_reward(log_q, log_prior[span], beta), success[span], delta, weight[span])
                loss.backward()
                metrics["e_step/loss"] = metrics.get("e_step/loss", 0.0) + float(loss.detach())
        return metrics

    def _lengths(self, rows: list[Judged]) -> torch.Tensor:
        return torch.tensor([float(len(r.response_ids)) for r in rows], device=self.policy.device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "m_step": self.m_step.state_dict(),
            "e_optimizer": self.e_optimizer.state_dict() if self.e.optimizer == "own" else None,
            "prior": self.prior.network.state_dict() if self.e.prior == "fixed" else None,
            "delta": self.delta.state_dict(),
            "buffer": [[asdict(row) for row in rows] for rows in self._remembered()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.m_step.load_state_dict(state["m_step"])
        if self.e.optimizer == "own":
            self.e_optimizer.load_state_dict(state["e_optimizer"])
        if self.e.prior == "fixed":
            self.prior.network.load_state_dict(state["prior"])
        self.delta.load_state_dict(state["delta"])
        self.buffer.clear()
        self.buffer.extend([Judged(**row) for row in rows] for rows in state["buffer"])

    def _remembered(self) -> list[list[Judged]]:
        """The steps that the next one will still find in the buffer."""
        steps = self.e.buffer_steps - 1
        return list(self.buffer)[-steps:] if steps else []


def _judged(batch: Batch) -> list[Judged]:
    return [
        Judged(row.group.prompt_token_ids, row.e_prompt.token_ids, row.response_ids, bool(row.success))
        for row in batch.rows
        if row.e_prompt is not None
    ]


def diagnostics(
    log_ratio: torch.Tensor, reward: torch.Tensor, success: torch.Tensor, delta: float, weight: torch.Tensor
) -> Metrics:
    """What to watch: the margin of the implicit reward, its saturation, and how many rows still push."""
    metrics: Metrics = {"e_step/delta": delta, "e_step/active_share": float((weight > 0).float().mean())}
    metrics["e_step/saturated_share"] = float(((reward - delta).abs() > 5).float().mean())
    for name, rows in (("success", success), ("failure", ~success)):
        metrics[f"e_step/{name}_rows"] = float(rows.sum())
        if rows.any():
            metrics[f"e_step/{name}_reward"] = float(reward[rows].mean())
            metrics[f"e_step/{name}_lift_nats"] = float(log_ratio[rows].mean())
    if success.any() and not success.all():
        metrics["e_step/margin"] = metrics["e_step/success_reward"] - metrics["e_step/failure_reward"]
    return metrics
