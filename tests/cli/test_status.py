"""`vpd status`: the stacks that are up with their runs, and the other runs in a line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import a_run, do_step, evaluate

from cli import status
from cli.claim import Claim
from cli.status import status_lines
from trainer.run_directory import RunDirectory


def finish(run: RunDirectory) -> None:
    run.write_summary({"algorithm": "vpd"})


def test_a_stack_says_how_far_its_run_is(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    evaluate(run, 0, 0.0)
    do_step(run, 0)
    evaluate(run, 1, 0.25)
    Claim(run.path).note({}, {"learner": 1})
    lines = status_lines(tmp_path)
    assert lines[0] == f"{run.path}: a run goes on"
    figures = "step 1 of 8, held-out accuracy 0.0 % → 25.0 %, 1:15 left, queue 2 waiting, 16 in work"
    assert lines[1] == f"  {figures}" and lines[2].startswith("  learner: ") and len(lines) == 3


def test_other_runs_have_a_line_each_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, begun = a_run(tmp_path, "done"), a_run(tmp_path, "begun")
    evaluate(done, 0, 0.5)
    do_step(done, 0)
    finish(done)
    do_step(begun, 0)
    do_step(begun, 1)
    monkeypatch.setattr("services.dashboard.runs.run_files.time.time", lambda: 1e12)
    assert status_lines(tmp_path) == [
        f"No stack is up below {tmp_path}.",
        f"{begun.path}: vpd, stopped, step 2 of 8",
        f"{done.path}: vpd, finished, step 1 of 8, held-out accuracy 50.0 %",
    ]


def test_a_run_that_was_written_to_just_now_may_still_go_on(tmp_path: Path) -> None:
    do_step(a_run(tmp_path), 0)
    assert "vpd, goes on elsewhere, or was stopped just now, step 1 of 8" in status_lines(tmp_path)[1]


def test_of_many_runs_the_last_written_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "SHOWN", 2)
    for name in ("a", "b", "c"):
        finish(a_run(tmp_path, name))
    lines = status_lines(tmp_path)
    assert len(lines) == 4 and lines[3] == "1 older runs are not shown."


def test_a_damaged_run_is_a_sentence_beside_the_others(tmp_path: Path) -> None:
    finish(a_run(tmp_path, "whole"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    shown = "\n".join(status_lines(tmp_path))
    assert f"{tmp_path / 'broken'} holds no run" in shown and "whole: vpd, finished" in shown
