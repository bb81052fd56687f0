"""Whatever is killed or stopped, a run of `vpd up` ends by itself or goes on, with the same bytes in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trackio_server import TOKEN, TrackioProcess
from vpd_run import SMALL, Start, Up, chosen, starting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ARGUMENTS = [*SMALL, *chosen(run__steps=10, learner__checkpoint_every=2)]
VICTIMS = ("code-feedback", "redis", "collector", "inference", "learner")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a run that nobody disturbed."""
    with starting(tmp_path_factory.mktemp("undisturbed")) as start:
        run = start(*ARGUMENTS)
        output = run.wait()
        assert run.process.returncode == 0, output
        yield run.directory


def pid(run: Up, name: str) -> int | None:
    """The process id that `vpd up` has noted for a process; None while it is away."""
    pids: dict[str, int] = json.loads((run.directory / "up.json").read_text())["pids"]
    return pids.get(name)


def vpd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def require_same(one: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"


def test_trackers_of_which_one_hangs_change_no_byte_of_a_run_and_get_the_rest_later(
    undisturbed: Path, up: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", TOKEN)
    with TrackioProcess(tmp_path / "trackio") as server:
        run = up(*ARGUMENTS, *chosen(tracking__trackio=server.url, tracking__tensorboard="true", tracking__flush_s=1))
        run.until(lambda: len(run.steps()) >= 3)
        server.hang()
        output = run.wait()
        assert run.process.returncode == 0, output
        assert "Not delivered to trackio from step " in output
        assert "tensorboard" not in output
        require_same(run.directory, undisturbed)
        server.kill()
        server.start()
        assert vpd("track", str(run.directory)).stdout == "All is delivered.\n"
        assert server.steps(run.run_id(), "vpd") == list(range(11))


def test_a_run_whose_every_process_is_killed_once_ends_by_itself_with_the_same_bytes(
    undisturbed: Path, up: Start
) -> None:
    run = up(*ARGUMENTS)
    for steps, victim in enumerate(VICTIMS, start=1):
        run.until(lambda steps=steps: len(run.steps()) >= steps)
        run.until(lambda victim=victim: pid(run, victim) is not None)
        killed = pid(run, victim)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
    output = run.wait()
    assert run.process.returncode == 0, output
    for victim in VICTIMS:
        assert f"{victim} was killed by SIGKILL (out of memory?); starting it again" in output
    require_same(undisturbed, run.directory)
    audited = vpd("audit", str(run.directory), "--json")
    assert audited.returncode == 0, audited.stdout
    found = json.loads(audited.stdout)
    assert (found["clean"], found["steps"], found["groups"], found["dropped"]) == (True, 10, 160, [])
    assert found["starts"] == 2
    replayed = vpd("replay", run.directory.name, "--set", f"run.dir={run.directory.parent}", "--step", "9", "--json")
    assert replayed.returncode == 0 and json.loads(replayed.stdout)["identical"], replayed.stdout + replayed.stderr


def test_ctrl_c_ends_a_run_after_its_step_with_exit_code_0_and_the_same_command_ends_it_with_the_same_bytes(
    undisturbed: Path, up: Start
) -> None:
    stopped = up(*ARGUMENTS)
    stopped.until(lambda: len(stopped.steps()) >= 3)
    stopped.process.send_signal(signal.SIGINT)
    output = stopped.wait()
    assert stopped.process.returncode == 0, output
    assert "To go on from the last checkpoint" in output
    done = len(stopped.steps())
    assert 3 <= done < 10 and not (stopped.directory / "summary.json").exists()
    assert (stopped.directory / "checkpoints" / f"step_{done:06d}.pt").exists()
    assert vpd("audit", str(stopped.directory)).returncode == 0
    resumed = up(*ARGUMENTS)
    assert resumed.wait() and resumed.process.returncode == 0
    require_same(undisturbed, resumed.directory)
    assert vpd("audit", str(resumed.directory)).returncode == 0
