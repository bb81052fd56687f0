"""`vpd experiment` as a real process: runs in parallel, failures that stop nobody, Ctrl-C and resuming."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from cli_support import command, environment, eventually, only_sentence, vpd
from safetensors.torch import load_file

COMMON = """
title = "Tiny"
[settings]
model.path = "builtin:renamed_library"
rollout = { prompts_per_step = 2, samples_per_prompt = 2 }
evaluation = { every = 2, tasks = 2, final_tasks = 2 }
learner.checkpoint_every = 1
feedback.sources.human = "none"
"""
TINY = f"""{COMMON}
run.steps = 2
[search]
learning_rates = [1e-3, 2e-3]
seeds = [9]
settings = {{ run.steps = 1 }}
[[arms]]
name = "vpd"
[[arms]]
name = "broken"
settings = {{ tasks.source = "tasks.jsonl" }}
learning_rate_of = "vpd"
[[seeds]]
seed = 1
"""
LONG = f"""{COMMON}
run.steps = 8
[[arms]]
name = "stopped"
[[arms]]
name = "whole"
[[seeds]]
seed = 1
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """TINY, run to its end."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "tiny.toml").write_text(TINY)
    return folder, vpd("experiment", "tiny.toml", "--dir", "e", "--jobs", "2", cwd=folder)


def test_a_run_that_fails_is_reported_and_the_others_go_on(
    ended: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = ended
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failed: main-broken-s1: tasks.source: tasks.jsonl is no built-in world" in done.stdout
    summaries = sorted(file.parent.name for file in (folder / "e" / "tiny").glob("*/summary.json"))
    assert summaries == ["main-vpd-s1", "search-main-vpd-lr1e-3-s9", "search-main-vpd-lr2e-3-s9"]


def test_the_report_is_written_by_itself(ended: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ended
    report = json.loads((folder / "e" / "tiny" / "report.json").read_text())
    assert report["missing"] == ["main-broken-s1"]
    assert "vpd experiment tiny.toml --dir e --jobs 2" in report["command"]
    assert f"Report: {Path('e') / 'tiny' / 'report.html'}" in done.stdout


def test_the_main_runs_take_the_rate_that_the_search_chose(
    ended: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ended
    (search,) = json.loads((folder / "e" / "tiny" / "report.json").read_text())["search"]
    settings = json.loads((folder / "e" / "tiny" / "main-vpd-s1" / "settings.json").read_text())
    assert settings["algorithm"]["learning_rate"] == search["chosen"]


def test_called_again_nothing_that_is_done_is_run_again(
    ended: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ended
    done = vpd("experiment", "tiny.toml", "--dir", "e", "--only", "vpd", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs" in done.stdout and "started" not in done.stdout


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(LONG)
    arguments = ("experiment", "long.toml", "--jobs", "1", "--dir", "e")
    started = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    run, twin = (tmp_path / "e" / "long" / f"main-{arm}-s1" for arm in ("stopped", "whole"))
    metrics = run / "metrics.jsonl"
    eventually(lambda: metrics.exists() and '"kind": "step"' in metrics.read_text(), "a step is done")
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGINT and "Stopped: 0 done, 2 waiting. To go on:" in said
    assert 0 < metrics.read_text().count('"kind": "step"') < 8
    done = vpd(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (load_file(directory / "model" / "model.safetensors") for directory in (run, twin))
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_a_dry_run_lists_the_runs_and_starts_none(tmp_path: Path) -> None:
    done = vpd("experiment", "smoke", "--dry-run", "--only", "vpd", "--set", "run.steps=7", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "search-library-vpd-lr1e-3-s101",
        "search-library-vpd-lr2e-3-s101",
        "library-vpd-s1",
        "library-vpd-s2",
        "4 runs of 28 steps together, 0 done",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_experiments_that_ship_are_listed(tmp_path: Path) -> None:
    done = vpd("experiment", "list", cwd=tmp_path)
    assert any(line.startswith("smoke ") and "0/10 runs" in line for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonesuch"], "There is no experiment nonesuch; there is"),
        (["none.toml"], "There is no experiment none.toml"),
        (["report", "smoke"], "holds no runs yet"),
        (["smoke", "vpd"], "takes NAME, list or report NAME"),
        (["smoke", "--set", "run.stepz=1"], "run.stepz is not a setting"),
        (["smoke", "--set", "model.path=builtin:nowhere"], "no model builtin:nowhere"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = vpd("experiment", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in only_sentence(done)
