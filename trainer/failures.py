"""How many rollouts may stay without an outcome, counted apart for infra and for data failures.

Such rollouts have no label and enter no loss; too many of them would leave a run that only seems to train. Asking
again is `trainer/judging.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shared.errors import DataError, ServiceUnavailable, VPDError
from shared.feedback_client import FeedbackClient, Judgement
from shared.feedback_results import FailureClass
from shared.protocol import FeedbackFailure
from shared.settings import FeedbackSettings

WINDOW_STEPS = 10
_MAX_REASON_CHARS = 500


class FailureBudgets:
    """Watches the last 10 steps' rollouts; `outcome` is the source that sets the reward.

    An abstention is no failure, and critique sources may fail as often as they like: only the outcome is counted.
    """

    def __init__(self, outcome: FeedbackClient, settings: FeedbackSettings, rollouts_per_step: int) -> None:
        self._outcome = outcome
        self._rollouts_per_step = rollouts_per_step
        self._most: dict[FailureClass, float] = {
            "infra": settings.max_infra_failures,
            "data": settings.max_data_failures,
        }
        self._window: deque[FeedbackFailure | None] = deque(maxlen=WINDOW_STEPS * rollouts_per_step)

    def count(self, judgements: Sequence[Judgement]) -> None:
        """Add these rollouts. Once a step's rollouts are counted: raises ServiceUnavailable where infra failures are a
        larger share than `feedback.max_infra_failures`, DataError where data failures pass their own."""
        self._window.extend(judgement.failure for judgement in judgements)
        if len(self._window) < self._rollouts_per_step:
            return
        for class_, most in self._most.items():
            failed = [failure for failure in self._window if failure is not None and failure.class_ == class_]
            if len(failed) > most * len(self._window):
                raise self._passed(class_, len(failed), failed[-1])

    def _passed(self, class_: FailureClass, failed: int, last: FeedbackFailure) -> VPDError:
        remedy = "Mend the source" if class_ == "infra" else "Mend the tasks, or what the source makes of them,"
        sentence = (
            f"Source '{self._outcome.name}' at {self._outcome.source.url} left {failed} of the last "
            f"{len(self._window)} rollouts without an outcome by failures of class '{class_}', more than the share of "
            f"{self._most[class_]:g} that feedback.max_{class_}_failures allows. The last: {in_one_line(last.message)} "
            f"{remedy} and start the run again: it resumes."
        )
        return ServiceUnavailable(sentence) if class_ == "infra" else DataError(sentence)


def in_one_line(message: str) -> str:
    """What a source wrote about its failure, as a sentence within a sentence of ours."""
    return " ".join(message.split())[:_MAX_REASON_CHARS].rstrip(".") + "."
