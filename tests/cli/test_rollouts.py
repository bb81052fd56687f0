"""`vpd rollouts`: which are shown, in which order, in how many columns; and hostile text that stays inert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runs import a_run, do_step
from cli_support import only_sentence, vpd
from trainer_builders import said

from cli.rollouts import Wanted, find, main
from services.dashboard.runs import RunFiles
from shared.errors import SettingsError
from trainer.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Three steps, of which the second has a critic's words, a rollout without outcome and one that was cut."""
    run = a_run(tmp_path_factory.mktemp("runs"))
    do_step(run, 0, (0.0, 1.0))
    critic = said("rather try common", name="critic", kind="llm")
    do_step(run, 1, (0.5, None, 0.25), feedback=[said("wrong"), critic], change={"finish_reason": "length"})
    do_step(run, 2, (0.75,))
    return run


def wanted(**changes: Any) -> Wanted:
    usual = {"sort": "newest", "source": None, "step": None, "task": None, "search": None, "truncated": False}
    return Wanted(**{**usual, "limit": 10, **changes})


def ids(run: RunDirectory, **changes: Any) -> list[str]:
    found = find(RunFiles(run.path), wanted(**changes))
    return [line.trajectory_id.partition("-s")[2] for line in found.lines]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["2 r0", "1 r0", "1 r1", "1 r2", "0 r0", "0 r1"]),
        ({"sort": "best"}, ["0 r1", "2 r0", "1 r0", "1 r2", "0 r0", "1 r1"]),
        ({"sort": "worst", "limit": 2}, ["0 r0", "1 r2"]),
        ({"source": "critic"}, ["1 r0", "1 r1", "1 r2"]),
        ({"step": 0}, ["0 r0", "0 r1"]),
        ({"task": "sk-2"}, ["2 r0"]),
        ({"task": "task-1", "sort": "worst", "limit": 1}, ["1 r2"]),
        ({"search": "TRY COMMON"}, ["1 r0", "1 r1", "1 r2"]),
        ({"truncated": True}, ["1 r0"]),
        ({"truncated": True, "step": 0}, []),
    ],
    ids=str,
)
def test_the_options_choose_and_order(run: RunDirectory, changes: dict[str, Any], expected: list[str]) -> None:
    assert ids(run, **changes) == [f"{int(e[0]):06d}-g000-r0{e[-1]}" for e in expected]


def test_the_total_counts_what_a_limit_leaves_out(run: RunDirectory) -> None:
    files = RunFiles(run.path)
    assert find(files, wanted(limit=1)).total == 6
    assert find(files, wanted(limit=1, task="task-1")).total == 3


def test_more_rollouts_than_a_page_are_found(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0, [i / 250 for i in range(250)])
    found = find(RunFiles(run.path), wanted(limit=240, sort="worst"))
    assert len({line.trajectory_id for line in found.lines}) == 240 and found.total == 250
    assert find(RunFiles(run.path), wanted(limit=1, task="task-0")).total == 250


def test_it_is_read_in_eighty_columns(run: RunDirectory) -> None:
    done = vpd("rollouts", str(run.path), "--worst", cwd=run.path, COLUMNS="80")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80
    table = [line.split() for line in done.stdout.splitlines() if line.startswith("s00000")]
    assert [row[:5] for row in table[:2]] == [
        ["s000000-g000-r00", "0.00", "-1.50", "3", "code"],
        ["s000001-g000-r02", "0.25", "-1.50", "3", "code,"],
    ]
    assert ["s000001-g000-r00", "0.50", "-1.50", "3+"] in [row[:4] for row in table]
    assert done.stdout.count("asked") == 3 and "wrong name" in done.stdout and "question of 0" in done.stdout


def test_json_has_the_whole_rollouts(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run.path, wanted(step=1, limit=2), as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["total"], len(shown["rollouts"])) == (run.identity.run_id, 3, 2)
    first = shown["rollouts"][0]
    assert first["feedback"][1]["text"] == "rather try common" and first["token_lift"] == [0.0, 0.5, -2.25, 0.25]


def test_without_a_name_the_newest_run_is_shown(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    do_step(a_run(tmp_path / "runs", "old"), 0)
    new = a_run(tmp_path / "runs", "new")
    do_step(new, 0)
    shown = json.loads(vpd("rollouts", "--json", cwd=tmp_path).stdout)
    assert shown["run"] == new.identity.run_id


def test_text_that_would_move_the_cursor_or_turn_a_line_around_is_written_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    hostile = "\x1b[2J[bold]a\u202eb\r"
    do_step(run, 0, feedback=[said(hostile)], change={"response": hostile, "task_id": hostile})
    main(run.path, wanted(), as_json=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "\r" not in out
    assert "\\x1b[2J[bold]a\\u202eb\\r" in out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"step": 7}, r"--step 7: the run in .* has rollouts of steps 0 to 2\."),
        ({"source": "ann"}, r"--source ann: no such source has answered in .* \(have: code, critic\)\."),
        ({"search": "x" * 300}, r"--search: string should have at most 200 characters\."),
    ],
    ids=str,
)
def test_what_is_not_there_is_one_sentence(run: RunDirectory, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        find(RunFiles(run.path), wanted(**changes))


def test_a_run_without_rollouts_and_no_run_at_all_are_one_sentence(tmp_path: Path) -> None:
    assert only_sentence(vpd("rollouts", cwd=tmp_path)).startswith("There is no run in runs yet: `vpd up` starts one")
    run = a_run(tmp_path / "runs")
    done = vpd("rollouts", cwd=tmp_path)
    assert done.returncode == 2 and "has no rollouts yet" in only_sentence(done) and run.path.name in done.stderr


def test_where_none_matches_it_says_so(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run.path, wanted(search="nowhere"), as_json=False) == 0
    assert "No rollout matches" in capsys.readouterr().out.replace("\n", " ")
