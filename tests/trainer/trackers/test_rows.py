"""What trackers are sent of a run's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_run import STARTED, WrittenRun

from trainer.trackers.rows import RowReader, TrackedRun


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "demo")


def reader(run: WrittenRun, first: int = 0) -> RowReader:
    return RowReader(TrackedRun.of(run.path), first)


def test_each_step_is_one_row_with_the_evaluation_before_it_and_its_times(run: WrittenRun) -> None:
    reading = reader(run)
    rows = reading.read()
    for steps in (1, 4, 2):
        run.go_on(steps)
        rows += reading.read()
    assert [row.step for row in rows] == list(range(7))
    assert rows[5].figures == {
        "reward_mean": 5 / 80,
        "m_step/kl": 0.5,
        "wall_s": 12.0,
        "tokens_per_s": 100.0,
        "evaluation/student_accuracy": 0.05,
        "evaluation/teacher_accuracy": 0.5,
        "evaluation/tasks": 64.0,
    }
    assert rows[5].time == STARTED + 12.0


def test_an_evaluation_waits_for_its_step_s_record_and_the_last_for_the_end_of_the_run(run: WrittenRun) -> None:
    reading = reader(run)
    run.go_on(5)
    run.finish()
    assert [row.step for row in reading.read()] == [0, 1, 2, 3, 4]
    (last,) = reading.read(ended=True)
    assert (last.step, last.figures["evaluation/student_accuracy"]) == (5, 0.05)
    assert last.time == STARTED + 10.0


def test_steps_that_a_resumed_run_does_again_are_no_rows_a_second_time(run: WrittenRun) -> None:
    reading = reader(run)
    run.go_on(9)
    rows = reading.read()
    run.go_back(4)
    rows += reading.read()
    run.go_on(8)
    rows += reading.read()
    assert [row.step for row in rows] == list(range(12))


def test_reading_from_a_step_on_gives_the_same_rows_as_reading_all(run: WrittenRun) -> None:
    run.go_on(12)
    assert reader(run, 7).read() == reader(run).read()[7:]


def test_settings_are_those_of_the_run_by_dotted_name_without_secrets(run: WrittenRun) -> None:
    settings = TrackedRun.of(run.path).settings
    assert settings["algorithm.e_step.beta"] == 0.1
    assert settings["api_key"] is None
