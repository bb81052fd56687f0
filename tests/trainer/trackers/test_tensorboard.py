"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_run import STARTED, WrittenRun

from trainer.trackers.process import deliver_now

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
SET = ["tracking.tensorboard=true"]


def points(run: WrittenRun, name: str) -> list[tuple[int, float, float]]:
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return [(one.step, one.value, one.wall_time) for one in events.Scalars(name)]


def test_every_figure_is_there_with_its_step_and_time(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "demo")
    run.go_on(10)
    run.finish()
    assert deliver_now(run.path, [], SET) == []
    assert points(run, "reward_mean") == [(k, pytest.approx(k / 80), STARTED + 2.0 * (k + 1)) for k in range(10)]
    accuracy = points(run, "evaluation/student_accuracy")
    assert [(step, value) for step, value, _ in accuracy] == [
        (0, 0.0),
        (5, pytest.approx(0.05)),
        (10, pytest.approx(0.1)),
    ]


def test_a_run_that_went_on_is_there_once(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "demo")
    run.go_on(8)
    deliver_now(run.path, [], SET)
    run.go_back(5)
    run.go_on(6)
    deliver_now(run.path, [], SET)
    assert [step for step, _, _ in points(run, "reward_mean")] == list(range(11))
    assert len(list((run.path / "tensorboard").iterdir())) == 1
