"""What the learner asks of an algorithm, and what it hands to one.

An algorithm says which objective applies to which rows, and when. The learner is blind to it: it calls `train_step`
once a batch, and saves and restores its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.batch import Batch
from trainer.optimisation import Optimizer
from trainer.policy import Policy

Metrics = dict[str, float]


@dataclass(frozen=True)
class Tools:
    """The student, its optimizer, and a maker of further optimizers over the same weights."""

    policy: Policy
    optimizer: Optimizer
    new_optimizer: Callable[[], Optimizer]


class Algorithm(ABC):
    """One training step at a time; its state goes into the checkpoint."""

    @abstractmethod
    def train_step(self, batch: Batch) -> Metrics:
        """Learn from a batch. `rows_trained` in the result counts the rows that any loss was computed on."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}")
