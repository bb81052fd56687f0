"""Whose weights read the teacher's prompt: the student's own, a moving average, the initial model, or between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared.settings import TeacherSettings
from trainer.policy import Policy, Scores, Sequences


class Teacher:
    """Scores responses under the teacher's prompt, without gradients.

    `live` has no memory of its own. `ema`, `frozen` and `trust_region` keep a second copy of the weights; that copy
    starts as the initial model.
    """

    def __init__(self, settings: TeacherSettings, student: Policy) -> None:
        self.settings = settings
        self.student = student
        self.twin = None if settings.weights == "live" else student.twin()

    @torch.no_grad()
    def score(self, sequences: Sequences) -> Scores:
        """Response tokens under the teacher's prompts; the same layout as the student's scores."""
        if self.twin is None:
            return self.student.score(sequences)
        anchor = self.twin.score(sequences)
        if self.settings.weights != "trust_region":
            return anchor
        return _interpolated(anchor, self.student.score(sequences), self.settings.rate)

    @torch.no_grad()
    def follow(self) -> None:
        """After a training step: move the average towards the student (ema only)."""
        if self.twin is not None and self.settings.weights == "ema":
            pairs = zip(self.twin.network.parameters(), self.student.network.parameters(), strict=True)
            for average, current in pairs:
                average.lerp_(current, self.settings.rate)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.twin is None else {"weights": self.twin.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.twin is not None:
            self.twin.network.load_state_dict(state["weights"])


def _interpolated(anchor: Scores, current: Scores, rate: float) -> Scores:
    """Logits (1 - rate) of the initial model's and rate of the student's: a geometric mixture (SDPO's trust region)."""
    width = anchor.hidden.shape[-1]

    def head(hidden: Tensor) -> Tensor:
        return torch.lerp(anchor.head(hidden[:, :width]), current.head(hidden[:, width:]), rate)

    hidden = torch.cat([anchor.hidden, current.hidden], dim=-1)
    return Scores(head, hidden, anchor.ids, anchor.row, anchor.rows)
