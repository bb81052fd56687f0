"""Group-relative policy optimisation (arXiv 2402.03300), the baseline, and two ways to let a teacher into it.

    A = (r - group mean) / group std;  L = -mean over tokens of min(rho A_t, clip(rho, 1-0.2, 1+0.28) A_t)

GRPO itself has A_t = A: reward only, no text. Reshaped, A_t = A + w (log q - log pi): the informed teacher's opinion
of each token is added. Reweighted, A_t = A times a bounded power of q/pi: the outcome keeps the sign, and tokens that
the teacher holds responsible count more. No KL term.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shared.algorithm_settings import GRPOSettings, ReshapedGRPOSettings, ReweightedGRPOSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch
from trainer.objectives.policy_gradient import reshaped, reweighted
from trainer.teacher import Teacher


class GRPO(Algorithm):
    def __init__(self, settings: GRPOSettings, tools: Tools) -> None:
        self.m_step = MStep(tools, settings, grpo=settings)

    def train_step(self, batch: Batch) -> Metrics:
        return self.m_step(batch)

    def state_dict(self) -> dict[str, Any]:
        return self.m_step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.m_step.teacher is None:
            super().load_state_dict(state)
        else:
            self.m_step.load_state_dict(state)


class ReshapedGRPO(GRPO):
    """Hybrid, advantage reshaping."""

    def __init__(self, settings: ReshapedGRPOSettings, tools: Tools) -> None:
        def shape(advantages: Tensor, log_ratio: Tensor, step: int) -> Tensor:
            return reshaped(advantages, log_ratio, weight=settings.ratio_weight)

        teacher = Teacher(settings.teacher, tools.policy)
        self.m_step = MStep(tools, settings, teacher=teacher, grpo=settings, shape=shape, without_contrast=True)


class ReweightedGRPO(GRPO):
    """Hybrid, distillation-guided reweighting."""

    def __init__(self, settings: ReweightedGRPOSettings, tools: Tools) -> None:
        def shape(advantages: Tensor, log_ratio: Tensor, step: int) -> Tensor:
            left = 1.0 if settings.decay_steps is None else max(0.0, 1.0 - step / settings.decay_steps)
            return reweighted(advantages, log_ratio, share=settings.ratio_share * left, clip=settings.ratio_clip)

        self.m_step = MStep(
            tools, settings, teacher=Teacher(settings.teacher, tools.policy), grpo=settings, shape=shape
        )
