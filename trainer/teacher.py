"""Whose weights read the teacher's prompt: the student's own, a moving average, the initial model, or between."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from shared.algorithm_settings import TeacherSettings
from trainer.batch import Batch
from trainer.policy import Policy
from trainer.scores import Scores, Sequences


class Teacher:
    """Scores responses under the teacher's prompt, without gradients.

    `live` has no memory of its own. All others keep a second copy of the weights, which starts as the initial model.
    """

    def __init__(self, settings: TeacherSettings, student: Policy) -> None:
        self.settings = settings
        self.student = student
        self.twin = None if settings.weights == "live" else student.twin(trainable=settings.weights == "separate")
        self.gate = RenewalGate(settings) if settings.weights == "gated" else None

    @property
    def trained(self) -> Policy:
        """The network an E-step trains: the student's own, which is the teacher's too, unless they are separate."""
        return self.twin if self.twin is not None and self.settings.weights == "separate" else self.student

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
    def follow(self, batch: Batch) -> None:
        """After a training step on `batch`: move the average towards the student, or renew a gated copy."""
        if self.twin is None or self.settings.weights not in ("ema", "gated"):
            return
        rate = self.settings.rate if self.gate is None else float(self.gate.opens(batch))
        if rate > 0:
            pairs = zip(self.twin.parameters(), self.student.parameters(), strict=True)
            for kept, current in pairs:
                kept.lerp_(current, rate)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {} if self.twin is None else {"weights": self.twin.state_dict()}
        return state | ({} if self.gate is None else {"gate": self.gate.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.twin is not None:
            self.twin.load_state_dict(state["weights"])
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])


class RenewalGate:
    """When a gated teacher is renewed: not by the clock, but when the student has consolidated (arXiv 2606.03532).

    Between renewals the teacher stands still. It is renewed when, over the last `gate_steps` steps, the mean reward
    is `gate_gain` above what it was at the last renewal (at first: in the first step), and no step's 95th percentile
    of response lengths is above `gate_length` times what it was then.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        self.window: deque[tuple[float, float]] = deque(maxlen=settings.gate_steps)
        self.reward: float | None = None
        self.length = 0.0

    def opens(self, batch: Batch) -> bool:
        """Take in a step; True if the teacher is to be renewed now. A step without an outcome does not count."""
        rewards = [r.trajectory.reward for r in batch.fresh if r.trajectory.reward is not None]
        lengths = [float(len(r.response_ids)) for r in batch.fresh]
        if not rewards:
            return False
        tail = float(torch.tensor(lengths).quantile(0.95))
        self.window.append((sum(rewards) / len(rewards), tail))
        if self.reward is None:
            self.reward, self.length = self.window[0]
        if len(self.window) < self.settings.gate_steps:
            return False
        reward = sum(r for r, _ in self.window) / len(self.window)
        longest = max(length for _, length in self.window)
        if reward < self.reward + self.settings.gate_gain or longest > self.settings.gate_length * self.length:
            return False
        self.reward, self.length = reward, longest
        self.window.clear()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"window": list(self.window), "reward": self.reward, "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window.clear()
        self.window.extend((reward, length) for reward, length in state["window"])
        self.reward, self.length = state["reward"], state["length"]


def _interpolated(anchor: Scores, current: Scores, rate: float) -> Scores:
    """Logits (1 - rate) of the initial model's and rate of the student's: a geometric mixture (SDPO's trust region)."""
    width = anchor.hidden.shape[-1]

    def head(hidden: Tensor) -> Tensor:
        return torch.lerp(anchor.head(hidden[:, :width]), current.head(hidden[:, width:]), rate)

    hidden = torch.cat([anchor.hidden, current.hidden], dim=-1)
    return Scores(head, hidden, anchor.ids, anchor.row, anchor.rows, anchor.chunk)
