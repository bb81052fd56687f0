"""Self-Distillation Policy Optimisation (arXiv 2601.20802): the M-step alone, with a regularised teacher.

The teacher is passive: it is never trained on outcomes. What keeps it from drifting is whose weights it uses: the
student's own (live), their moving average (ema), the initial model (frozen), logits in between (trust_region), or a
copy that is renewed when the student has become better (gated). With a GRPO term beside it this is the joint loss
w_opd L_SDPO + w_rl L_GRPO.
"""

from __future__ import annotations

from typing import Any

from shared.algorithm_settings import SDPOGRPOSettings, SDPOSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch
from trainer.teacher import Teacher


class SDPO(Algorithm):
    def __init__(self, settings: SDPOSettings, tools: Tools) -> None:
        self.m_step = MStep(
            tools,
            settings.m_step,
            teacher=Teacher(settings.teacher, tools.policy),
            distill=settings.m_step,
            grpo=settings.grpo if isinstance(settings, SDPOGRPOSettings) else None,
        )

    def train_step(self, batch: Batch) -> Metrics:
        return self.m_step(batch)

    def state_dict(self) -> dict[str, Any]:
        return self.m_step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.m_step.load_state_dict(state)
