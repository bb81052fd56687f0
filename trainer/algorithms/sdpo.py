"""Self-Distillation Policy Optimisation (arXiv 2601.20802): the M-step alone, with a regularised teacher.

The teacher is passive: it is never trained on outcomes. What keeps it from drifting is whose weights it uses: the
student's own (live), their moving average (ema), the initial model (frozen), or logits in between (trust_region).
"""

from __future__ import annotations

from typing import Any

from shared.settings import SDPOSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.distillation import Distillation
from trainer.batch import Batch


class SDPO(Algorithm):
    def __init__(self, settings: SDPOSettings, tools: Tools) -> None:
        self.m_step = Distillation(settings.m_step, settings.teacher, tools)

    def train_step(self, batch: Batch) -> Metrics:
        return self.m_step(batch)

    def state_dict(self) -> dict[str, Any]:
        return self.m_step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.m_step.load_state_dict(state)
