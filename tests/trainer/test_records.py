"""What a run's records come to: collapse told from noise, best, area under the curve, times apart from metrics."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_builders import group, trajectory

from shared.settings import Settings
from shared.trajectory_queue import QueueDepth
from trainer.batch import Batch, Row
from trainer.records import collapse, step_record, summary, timings_record

Record = dict[str, Any]


def evaluation(step: int, student: float | None, teacher: float | None = None, tasks: int = 64) -> Record:
    accuracies = {"student_accuracy": student, "teacher_accuracy": teacher}
    return {"kind": "evaluation", "step": step, "tasks": tasks, "unjudged": 0, **accuracies}


def evaluations(*students: float | None, teachers: tuple[float | None, ...] = (), every: int = 10) -> list[Record]:
    told = teachers or (None,) * len(students)
    return [evaluation(every * i, s, t) for i, (s, t) in enumerate(zip(students, told, strict=True))]


def training(*successes: float | None) -> list[Record]:
    return [
        {"kind": "step", "step": i, "success_rate": s, "reward_mean": s, "prompts": 16, "optimizer_steps": 2.0}
        for i, s in enumerate(successes)
    ]


def finished(records: list[Record], steps: int) -> Record:
    settings = Settings.model_validate({"run": {"steps": steps}})
    return summary(settings, records, wall_s=1.0, rows_trained=9)


def test_a_collapse_names_the_best_evaluation_and_the_first_from_which_accuracy_stayed_low() -> None:
    records = evaluations(0.0, 0.4, 0.62, 0.5, 0.03, 0.1)
    assert collapse(records) == "Collapsed: held-out accuracy fell from 0.62 (step 20) to 0.03 (step 40)."


def test_a_run_that_recovers_has_not_collapsed() -> None:
    assert collapse(evaluations(0.0, 0.62, 0.03, 0.4)) is None


def test_a_run_that_recovers_and_falls_again_collapsed_at_the_later_fall() -> None:
    told = collapse(evaluations(0.0, 0.62, 0.03, 0.5, 0.02))
    assert told == "Collapsed: held-out accuracy fell from 0.62 (step 10) to 0.02 (step 40)."


@pytest.mark.parametrize(
    "students", [(), (None, None), (0.0,), (0.0, 0.2, 0.5), (0.6, 0.31), (0.09, 0.0), (None, 0.5, None)]
)
def test_rising_half_kept_and_unjudged_accuracies_are_no_collapse(students: tuple[float | None, ...]) -> None:
    assert collapse(evaluations(*students)) is None


def test_the_same_fall_is_noise_on_few_tasks_and_a_collapse_on_many() -> None:
    few, many = ([evaluation(0, 0.25, tasks=n), evaluation(10, 0.1, tasks=n)] for n in (20, 200))
    assert collapse(few) is None
    assert collapse(many) is not None


def test_a_run_that_never_was_good_cannot_collapse() -> None:
    low, high = ([evaluation(0, best, tasks=1000), evaluation(10, 0.0, tasks=1000)] for best in (0.09, 0.11))
    assert collapse(low) is None
    assert collapse(high) is not None


@pytest.mark.parametrize("accuracy", [0.05, 0.1, 0.2, 0.4])
def test_chance_alone_is_hardly_ever_called_a_collapse(accuracy: float) -> None:
    rng = random.Random(7)
    called = 0
    for _ in range(500):
        drawn = [sum(rng.random() < accuracy for _ in range(64)) / 64 for _ in range(9)]
        called += collapse(evaluations(*drawn)) is not None
    assert called <= 5


def test_a_teacher_that_fell_at_an_earlier_evaluation_is_named() -> None:
    records = evaluations(0.0, 0.5, 0.6, 0.5, 0.02, teachers=(0.4, 0.7, 0.7, 0.1, 0.0))
    assert collapse(records) == (
        "Collapsed: held-out accuracy fell from 0.60 (step 20) to 0.02 (step 40); "
        "the teacher's fell first, from 0.70 (step 10) to 0.10 (step 30)."
    )


@pytest.mark.parametrize("teachers", [(0.4, 0.7, 0.7, 0.7, 0.0), (0.4, 0.7, 0.7, 0.7, 0.6), (None,) * 5])
def test_a_teacher_that_fell_with_the_student_or_not_at_all_is_not(teachers: tuple[float | None, ...]) -> None:
    sentence = collapse(evaluations(0.0, 0.5, 0.6, 0.5, 0.02, teachers=teachers))
    assert sentence is not None and "teacher" not in sentence


def test_a_best_that_no_evaluation_saw_is_found_in_training() -> None:
    rise, fallen = [0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6], [0.0] * 13
    told = collapse([evaluation(0, 0.0), *training(*rise, *fallen), evaluation(20, 0.0)])
    assert told == "Collapsed: success in training fell from 0.60 (step 7) to 0.24 (step 10)."


def test_success_in_training_does_not_overrule_a_held_out_accuracy_that_stands() -> None:
    successes = training(*[0.6] * 10, *[0.0] * 10)
    assert collapse([evaluation(0, 0.1), *successes, evaluation(20, 0.5)]) is None
    assert collapse([evaluation(0, None), *successes, evaluation(20, None)]) is not None


def test_one_bad_step_or_steps_without_outcomes_are_no_collapse() -> None:
    assert collapse(training(*[0.5] * 19, 0.0)) is None
    assert collapse(training(*[0.5] * 10, *[None] * 10)) is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12),
    st.lists(st.none() | st.floats(0, 1), max_size=30),
)
def test_whatever_is_called_a_collapse_ends_below_half_its_best(
    accuracies: list[tuple[float, float]], successes: list[float | None]
) -> None:
    students, teachers = tuple(s for s, _ in accuracies), tuple(t for _, t in accuracies)
    sentence = collapse([*evaluations(*students, teachers=teachers), *training(*successes)])
    if sentence is not None and "held-out" in sentence:
        assert students[-1] < max(students) / 2 and max(students) >= 0.1
    elif sentence is not None:
        known = [s for s in successes if s is not None]
        assert sum(known[-5:]) / 5 < max(known) / 2


def test_the_summary_of_a_collapsed_run_says_so_and_notes_it() -> None:
    records = [*evaluations(0.1, 0.5, 0.7, 0.0), *training(*[0.3] * 30)]
    found = finished(records, steps=30)
    assert found["collapsed"] == "Collapsed: held-out accuracy fell from 0.70 (step 20) to 0.00 (step 30)."
    assert found["notes"] == [found["collapsed"]]
    assert (found["best_accuracy"], found["best_step"], found["optimizer_steps"]) == (0.7, 20, 60)


def test_of_equal_evaluations_the_first_is_the_best() -> None:
    found = finished(evaluations(0.1, 0.5, 0.5, 0.4), steps=30)
    assert (found["best_accuracy"], found["best_step"]) == (0.5, 10)
    assert found["collapsed"] is None and found["notes"] == []


def test_the_area_under_the_curve_is_the_mean_accuracy_over_the_steps() -> None:
    uneven = [evaluation(0, 0.0), evaluation(10, 0.4), evaluation(40, 0.8)]
    # Two trapezoids by hand: 10 * 0.2 + 30 * 0.6, over 40 steps.
    assert finished(uneven, steps=40)["area_under_curve"] == pytest.approx(0.5)
    assert finished(evaluations(0.25, 0.25, 0.25), steps=20)["area_under_curve"] == pytest.approx(0.25)
    assert finished([evaluation(0, None), evaluation(10, 0.5)], steps=10)["area_under_curve"] is None


def test_times_of_a_step_go_to_the_timings_and_nothing_is_in_both_but_the_step() -> None:
    made = group([trajectory(0, success=True), trajectory(1, success=False)])
    made = made.model_copy(update={"timings_s": {"rollout": 1.0, "feedback": 2.0}})
    batch = Batch(3, [Row(made, t) for t in made.trajectories])
    metrics = {
        "m_step/kl": 0.5,
        "seconds/m_step": 0.25,
        "seconds/learn": 0.5,
        "seconds/publish": 0.5,
        "seconds/wait": 3.0,
    }
    record = step_record(batch, [made], metrics, steps=10)
    times = timings_record(batch, [made], metrics, QueueDepth(1, 2, 0), steps=10, wall_s=8.0)
    assert record.keys() & times.keys() == {"step"}
    assert record["m_step/kl"] == 0.5 and record["success_rate"] == 0.5
    assert {key for key in times if key.startswith("seconds/")} == {
        "seconds/rollout", "seconds/feedback", "seconds/m_step", "seconds/learn", "seconds/publish", "seconds/step",
        "seconds/wait",
    }  # fmt: skip
    assert times["seconds/step"] == 4.0 and times["tokens_per_s"] == record["tokens"] / 4.0
    assert times["eta_s"] == 8.0 / 4 * 6
