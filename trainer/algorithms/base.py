"""What the learner asks of an algorithm, and what it hands to one.

An algorithm says which objective applies to which rows, and when. The learner is blind to it: it calls `train_step`
once a batch, and saves and restores its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.batch import Batch
from trainer.optimisation import Optimizer
from trainer.policy import Policy
from trainer.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from trainer.algorithms.m_step import MStep

Metrics = dict[str, float]


@dataclass(frozen=True)
class Tools:
    """The student, the optimizer of its weights, and the processes that train it together."""

    policy: Policy
    optimizer: Optimizer
    ranks: Ranks = ALONE


class Algorithm(ABC):
    """One training step at a time; its state goes into the checkpoint. Each has an M-step, the student's part."""

    m_step: MStep

    @abstractmethod
    def train_step(self, batch: Batch) -> Metrics:
        """Learn from a batch. In the result, `rows_trained` counts the rows that the student's loss was computed on,
        and `optimizer_steps` the updates of any weights. Keys that begin with `seconds/` are times."""

    @property
    def wants_teacher_accuracy(self) -> bool:
        """Whether `observe_teacher` is to be told the teacher's accuracy on training prompts now and then."""
        return False

    def observe_teacher(self, accuracy: float) -> None:
        """The teacher's accuracy on prompts that are about to be trained on, a share; told to those who want it."""
        raise TypeError(f"{type(self).__name__} does not ask for the teacher's accuracy")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}")
