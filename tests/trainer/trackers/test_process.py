"""The process beside the learner: what becomes of a run, and of its rows, when a tracker or the process fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trackio_server import TOKEN, TrackioProcess
from written_run import RUN_ID, WrittenRun

from shared.errors import SettingsError, VPDError
from shared.settings import TrackingSettings
from trainer.trackers.choice import require_trackers
from trainer.trackers.delivery import undelivered
from trainer.trackers.process import deliver_now, tracked

pytest.importorskip("trackio")
pytest.importorskip("tensorboard")


@pytest.fixture(scope="module")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackioProcess]:
    with TrackioProcess(tmp_path_factory.mktemp("trackio")) as process:
        yield process


@pytest.fixture
def server(server_process: TrackioProcess) -> TrackioProcess:
    server_process.revive()
    return server_process


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenRun:
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", TOKEN)
    return WrittenRun(tmp_path / "demo")


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def next_step(run: WrittenRun, tracker: str) -> int:
    try:
        return int(json.loads((run.path / "tracking.json").read_text())[tracker]["next_step"])
    except (FileNotFoundError, KeyError):
        return 0


def processes(run: WrittenRun) -> list[int]:
    """Those that deliver this run."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run.path).encode() in words and b"trainer.trackers.process" in words:
            found.append(int(directory.name))
    return found


def test_a_server_that_hangs_and_is_killed_gets_all_of_it_later_and_the_run_does_not_notice(
    server: TrackioProcess, run: WrittenRun, tmp_path: Path
) -> None:
    alone = WrittenRun(tmp_path / "alone")
    tracking = TrackingSettings(project="hung", trackio=server.url, tensorboard=True, flush_s=0.5)
    with tracked(tracking, run.path):
        for one in (run, alone):
            one.go_on(6)
        eventually(lambda: next_step(run, "trackio") == 6)
        server.hang()
        for one in (run, alone):
            one.go_on(6)
            one.finish()
        # The other tracker is not held up by it.
        eventually(lambda: next_step(run, "tensorboard") == 12)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert run.files() == alone.files()
    (sentence,) = undelivered(run.path)
    assert sentence.startswith("Not delivered to trackio from step 6 on: ")
    assert sentence.endswith(f"`vpd track {run.path}` sends what is missing.")
    server.kill()
    server.start()
    assert deliver_now(run.path, [], [f"tracking.trackio={server.url}", "tracking.project=hung"]) == []
    assert server.steps(RUN_ID, "hung") == list(range(12))
    assert undelivered(run.path) == []


def test_what_was_missed_while_the_server_was_away_is_sent_when_it_is_back(
    server: TrackioProcess, run: WrittenRun
) -> None:
    server.kill()
    with tracked(TrackingSettings(project="away", trackio=server.url, flush_s=30), run.path):
        run.go_on(8)
        server.start()
        eventually(lambda: next_step(run, "trackio") == 8)
        run.go_back(5)
        run.go_on(5)
        run.finish()
    assert undelivered(run.path) == []
    assert server.steps(RUN_ID, "away") == list(range(11))


def test_a_process_that_is_killed_is_started_again_and_doubles_nothing(server: TrackioProcess, run: WrittenRun) -> None:
    with tracked(TrackingSettings(project="killed", trackio=server.url, flush_s=30), run.path):
        for steps in (5, 9, 3):
            run.go_on(steps)
            eventually(lambda: bool(processes(run)) and next_step(run, "trackio") > 0)
            for pid in processes(run):
                os.kill(pid, signal.SIGKILL)
        run.finish()
    assert server.steps(RUN_ID, "killed") == list(range(17))


def test_the_process_of_a_learner_that_is_killed_delivers_what_is_there_and_ends(run: WrittenRun) -> None:
    learner = (
        "import sys, time; from pathlib import Path\n"
        "from shared.settings import TrackingSettings; from trainer.trackers.process import tracked\n"
        "with tracked(TrackingSettings(tensorboard=True), Path(sys.argv[1])): time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", learner, str(run.path)])
    eventually(lambda: bool(processes(run)))
    run.go_on(7)
    process.kill()
    process.wait()
    eventually(lambda: not processes(run))
    assert next_step(run, "tensorboard") == 7


def test_two_processes_do_not_deliver_the_same_run(run: WrittenRun) -> None:
    run.go_on(1)
    with tracked(TrackingSettings(tensorboard=True), run.path):
        eventually(lambda: next_step(run, "tensorboard") == 1)
        with pytest.raises(VPDError, match=r"delivers the figures of .* already"):
            deliver_now(run.path, [], ["tracking.tensorboard=true"])


def test_a_tracker_whose_package_is_missing_is_a_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"tracking.wandb is set, .*: pip install 'vpd\[wandb\]'\."):
        require_trackers(TrackingSettings(wandb=True))


def test_a_trackio_server_without_its_token_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKIO_WRITE_TOKEN", raising=False)
    with pytest.raises(SettingsError, match="set TRACKIO_WRITE_TOKEN"):
        require_trackers(TrackingSettings(trackio="http://127.0.0.1:7860"))
