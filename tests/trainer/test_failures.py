"""How many rollouts may stay without an outcome before a run stops."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from feedback_builders import a_source

from shared.errors import DataError, InfrastructureError, ServiceUnavailable
from shared.feedback_client import FeedbackClient, Judgement
from shared.protocol import FeedbackFailure
from shared.settings import FeedbackSettings
from trainer.failures import FailureBudgets

URL = "http://127.0.0.1:9"
JUDGED = Judgement(reward=0.0, success=False)
ABSTAINED = Judgement()


def _failed(class_: Literal["infra", "data"], message: str = "It broke.") -> Judgement:
    return Judgement(failure=FeedbackFailure(class_=class_, message=message))


def _budgets(rollouts_per_step: int, **settings: Any) -> FailureBudgets:
    source = a_source(URL, role="both")
    return FailureBudgets(
        FeedbackClient("judge", source, api_key=None),
        FeedbackSettings(sources={"judge": source}, **settings),
        rollouts_per_step,
    )


@pytest.mark.parametrize(("class_", "type_"), [("infra", ServiceUnavailable), ("data", DataError)])
def test_more_failures_of_a_class_than_its_share_stop_the_run_with_a_sentence(
    class_: Literal["infra", "data"], type_: type[Exception]
) -> None:
    budgets = _budgets(4, **{f"max_{class_}_failures": 0.5})
    budgets.count([_failed(class_)] * 2 + [JUDGED] * 2)
    with pytest.raises(type_) as caught:
        budgets.count([JUDGED] * 1 + [_failed(class_)] * 2 + [_failed(class_, "Line\none..")])
    sentence = str(caught.value)
    for part in (f"'judge' at {URL}", "5 of the last 8 rollouts", f"feedback.max_{class_}_failures", "Line one. "):
        assert part in sentence
    assert "\n" not in sentence and sentence.endswith("start the run again: it resumes.")
    assert issubclass(type_, InfrastructureError) == (class_ == "infra")


def test_the_budgets_are_apart_and_abstentions_count_in_neither() -> None:
    budgets = _budgets(4, max_infra_failures=0.5, max_data_failures=0.5)
    budgets.count([_failed("infra"), _failed("infra"), _failed("data"), _failed("data")])
    budgets.count([ABSTAINED] * 40)


def test_nothing_is_said_before_a_step_s_rollouts_are_counted() -> None:
    budgets = _budgets(8)
    budgets.count([_failed("data")] * 7)
    with pytest.raises(DataError, match="8 of the last 8 rollouts"):
        budgets.count([_failed("data")])


def test_failures_of_more_than_ten_steps_ago_are_forgotten() -> None:
    budgets = _budgets(2, max_data_failures=0.1)
    for _ in range(4):
        budgets.count([JUDGED, JUDGED])
    budgets.count([_failed("data"), JUDGED])
    for _ in range(9):
        budgets.count([JUDGED, JUDGED])
    budgets.count([_failed("data"), JUDGED])
    with pytest.raises(DataError, match="3 of the last 20 rollouts"):
        budgets.count([_failed("data"), _failed("data")])


def test_a_share_of_one_never_stops_a_run_and_a_share_of_nought_stops_it_at_the_first() -> None:
    _budgets(2, max_infra_failures=1.0).count([_failed("infra")] * 20)
    with pytest.raises(ServiceUnavailable, match="1 of the last 2 rollouts"):
        _budgets(2, max_infra_failures=0.0).count([_failed("infra"), JUDGED])
