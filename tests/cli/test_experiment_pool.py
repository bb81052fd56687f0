"""Which run may start with which rate, and what is shown meanwhile; no process is started."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from experiments.experiment_files import SEARCH, finish, plan
from rich.console import Console

from cli.experiment_pool import Pool
from cli.experiment_progress import ExperimentProgress, duration, time_left


def _pool(tmp_path: Path, finished: int, failed: int = 0) -> Pool:
    """VPD's search of four runs, of which some are done and some failed: the larger rate does better."""
    found = plan(tmp_path, search=SEARCH, only=["vpd"])
    runs = found.searched(("main", "vpd"))
    for run in runs[:finished]:
        finish(found, run, [0.0, 100 * (run.rate or 0)])
    pool = Pool(found, 1, lambda settings: settings)
    for run in runs[finished : finished + failed]:
        pool.waiting.remove(run)
        pool.failed[run.name] = "It failed."
    return pool


def test_a_run_waits_until_its_search_is_done(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=3)
    assert pool.settings_of(pool.plan.of("main", "vpd")[0]) is None
    assert not pool.failed and pool.plan.of("main", "vpd")[0] in pool.waiting


def test_a_run_takes_the_rate_that_did_best(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=4)
    settings = pool.settings_of(pool.plan.of("main", "vpd")[0])
    assert settings is not None and settings.algorithm.learning_rate == 1e-3


def test_a_rate_whose_run_failed_is_left_out(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=2, failed=2)
    settings = pool.settings_of(pool.plan.of("main", "vpd")[0])
    assert settings is not None and settings.algorithm.learning_rate == 1e-3


def test_without_any_rate_the_run_fails_with_a_sentence(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=0, failed=4)
    run = pool.plan.of("main", "vpd")[0]
    assert pool.settings_of(run) is None
    assert "no learning rate could be chosen" in pool.failed[run.name] and run not in pool.waiting


def test_what_is_done_before_is_not_waiting(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=4)
    assert len(pool.done) == 4 and [run.search for run in pool.waiting] == [False, False]


@pytest.mark.parametrize(("rate", "taken"), [(1e-3, True), (5e-4, False)])
def test_a_run_that_is_done_counts_only_at_the_rate_that_the_search_chooses(
    tmp_path: Path, rate: float, taken: bool
) -> None:
    found = _pool(tmp_path, finished=4).plan
    run = found.of("main", "vpd")[0]
    finish(found, run, [0.0, 0.5])
    (found.path(run) / "settings.json").write_text(json.dumps({"algorithm": {"learning_rate": rate}}))
    pool = Pool(found, 1, lambda settings: settings)
    assert (run.name in pool.done) == taken and run not in pool.waiting
    assert taken or "the search now chooses 0.001: delete that directory" in pool.failed[run.name]


def test_off_a_terminal_a_line_tells_of_each_run_that_ends(tmp_path: Path) -> None:
    pool = _pool(tmp_path, finished=4)
    out = io.StringIO()
    with ExperimentProgress(Console(file=out, width=200), pool.plan, pool) as progress:
        first, second = pool.waiting
        pool.waiting.clear()
        finish(pool.plan, first, [0.0, 0.6, 0.1], collapsed="Collapsed: ...")
        pool.waiting.append(first)
        pool.take_in(first)
        pool.failed[second.name] = "The disk is full."
        progress.update()
        progress.update()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("main-vpd-s1: 10.0 % held out, area 0.325, collapsed, 1.5 min (5 done, 1 failed")
    assert lines[1] == "main-vpd-s2: failed: The disk is full."


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03"), (90000, "25:00:00")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_time_left_is_that_of_the_steps_left() -> None:
    assert time_left(30.0, 10, 20) == 60.0
    assert time_left(30.0, 0, 20) is None
