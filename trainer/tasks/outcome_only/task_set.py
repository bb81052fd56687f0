"""The tasks of `house_dialect`, judged without a word: all a teacher can be shown is a successful sibling.

Their reference is code-feedback's, which gives text of its own: a run sets `teacher_prompt.feedback = "never"`.
"""

from __future__ import annotations

from shared.protocol import Task
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.outcome import Outcome


class OutcomeOnly(HouseDialect):
    """`World` of houses that do not explain themselves."""

    name = "outcome_only"

    def judge(self, task: Task, text: str) -> Outcome:
        """Success or failure as code-feedback finds it; no text."""
        return Outcome(super().judge(task, text).success, None)
