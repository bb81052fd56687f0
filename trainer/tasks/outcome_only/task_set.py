"""The tasks of `house_dialect`, judged without a word: all a teacher can be shown is a successful sibling.

Their reference is code-feedback's, which gives text of its own: a run sets `teacher_prompt.feedback = "never"`.
"""

from __future__ import annotations

from shared.protocol import Task
from trainer.tasks.house_dialect.dialect import world_dialect
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.outcome import Outcome


class OutcomeOnly(HouseDialect):
    """`World` of houses that do not explain themselves."""

    name = "outcome_only"

    def judge(self, task: Task, text: str) -> Outcome:
        """Success or failure as code-feedback finds it; no text."""
        return Outcome(super().judge(task, text).success, None)


class RareSuccess(OutcomeOnly):
    """The same in houses far from the usual: the model is right in two or three answers of a hundred."""

    name = "outcome_only_rare"

    def __init__(self, *, world_seed: int, seed: int) -> None:
        super().__init__(world_seed=world_seed, seed=seed)
        self.dialect = world_dialect(world_seed, far=True)
