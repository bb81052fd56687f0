"""A whole session with real processes: Redis and services that are small programs, a collector and a learner likewise.

The real services and the real trainer are brought up in tests/e2e.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import environment, eventually, lives

from cli.up import READY_S, ready_s
from shared.load_settings import resolve_settings

# Runs cli.up with programs of the test in place of the services and the trainer.
STAND_IN = """
import sys
from pathlib import Path
import cli.up
from cli.processes import Spec
from shared.load_settings import resolve_settings

programs, arguments = Path(sys.argv[1]), sys.argv[2:]

def spec(name, tier, restarts, *extra):
    return Spec(name, [sys.executable, str(programs / f"{name}.py"), *extra], tier=tier, restarts=restarts)

cli.up.resolve_model = lambda path: path
cli.up.service_specs = lambda plan, file: [spec(n, 1, 3, str(p), str(file)) for n, p in plan.ports.items()]
cli.up.job_specs = lambda settings, file: [spec(n, 2, 0, str(Path(settings.run.dir) / settings.run.name))
                                           for n in ("collector", "learner")]
if (programs / "stand_in.py").exists():
    exec((programs / "stand_in.py").read_text())
sys.argv[1:] = arguments
from cli.main import main
main()
"""
SERVICE = """
import http.server, os, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
COLLECTOR = "import time; time.sleep({seconds})"
LEARNER = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
with (run / "metrics.jsonl").open("a") as out:
    for step in range(3):
        print(json.dumps({"kind": "step", "step": step, "reward_mean": 0.5}), file=out, flush=True)
"""
FINISH = '(run / "summary.json").write_text(json.dumps({"accuracy_before": 0.25, "accuracy_after": 0.75}))\n'
HANG = "time.sleep(600)\n"
INSTALLS = """
from shared.errors import VPDError
def install(directory, display):
    display.status("Installing vLLM: torch")
    Path("installed").touch()
cli.up.missing, cli.up.install = lambda settings: Path("there"), install
"""


class Stage:
    """A directory with programs, in which `vpd up` runs."""

    def __init__(self, path: Path, base_port: int) -> None:
        self.path = path
        self.base_port = base_port
        self.programs = path / "programs"
        self.programs.mkdir()
        for name in ("inference", "code-feedback", "critic-feedback", "human-feedback"):
            self.program(name, SERVICE)
        self.program("collector", COLLECTOR.format(seconds=0))
        self.program("learner", LEARNER + FINISH)
        self.running: list[subprocess.Popen[str]] = []

    def program(self, name: str, code: str) -> None:
        (self.programs / f"{name}.py").write_text(code)

    def vpd(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", STAND_IN, str(self.programs), *arguments],
            cwd=self.path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        return self.vpd("up", "--base-port", str(self.base_port), "--set", "run.steps=3", *arguments)

    def pids(self) -> dict[str, int]:
        note = self.path / "runs" / "demo" / "up.json"
        pids: dict[str, int] = json.loads(note.read_text())["pids"] if note.exists() else {}
        return pids

    def trains(self) -> bool:
        return (self.path / "runs" / "demo" / "metrics.jsonl").exists() and "learner" in self.pids()


@pytest.fixture
def stage(tmp_path: Path, worker_id: str) -> Iterator[Stage]:
    worker = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 99
    stage = Stage(tmp_path, 18_000 + 10 * worker)
    yield stage
    pids = list(stage.pids().values())
    for process in stage.running:
        process.kill()
        process.communicate()
    for pid in filter(lives, pids):
        os.kill(pid, signal.SIGKILL)


def test_a_run_ends_with_before_and_after_and_nothing_left_running(stage: Stage) -> None:
    process = stage.up()
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    for words in ("inference is ready.", "step 3/3", "25.0 % → 75.0 %", "Run directory: runs/demo", "VPD_API_KEY"):
        assert words in out
    assert not (stage.path / "runs" / "demo" / "up.json").exists()
    assert (stage.path / "runs" / "demo" / "redis" / "appendonly.aof").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything_and_says_how_to_go_on(stage: Stage, number: signal.Signals, code: int) -> None:
    stage.program("learner", LEARNER + HANG)
    process = stage.up("--fresh")
    eventually(stage.trains, "the run goes on")
    pids = list(stage.pids().values())
    assert len(pids) >= 6
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (code, "")
    assert f"go on from the last checkpoint: ./vpd up --base-port {stage.base_port} --set run.steps=3\n" in out
    assert not any(map(lives, pids))


def test_killing_up_itself_leaves_no_process_behind_and_the_next_up_goes_on(stage: Stage) -> None:
    stage.program("learner", LEARNER + HANG)
    process = stage.up()
    eventually(stage.trains, "the run goes on")
    pids = list(stage.pids().values())
    process.kill()
    process.communicate()
    eventually(lambda: not any(map(lives, pids)), "everything is gone")
    stage.program("learner", LEARNER + FINISH)
    again = stage.up()
    assert (again.communicate()[1], again.returncode) == ("", 0)


def test_a_service_that_dies_in_the_run_comes_back_with_a_visible_line(stage: Stage) -> None:
    stage.program("learner", LEARNER + "while not (run / 'go').exists(): time.sleep(0.02)\n" + FINISH)
    process = stage.up()
    eventually(stage.trains, "the run goes on")
    old = stage.pids()["code-feedback"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: stage.pids().get("code-feedback", old) != old, "it is started again")
    (stage.path / "runs" / "demo" / "go").touch()
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "code-feedback was killed by SIGKILL (out of memory?); starting it again (3 left)." in out


def test_a_service_that_cannot_start_is_one_sentence_and_nothing_is_left(stage: Stage) -> None:
    stage.program("inference", "import sys; sys.exit('error: there is no memory for the model')")
    process = stage.up()
    out, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("error: inference ended with code 1: there is no memory for the model (log: ")
    assert len(err.splitlines()) == 1
    assert "redis is ready." in out


def test_what_vllm_lacks_is_installed_before_the_services_start(stage: Stage) -> None:
    stage.program("stand_in", INSTALLS)
    stage.program("inference", "import pathlib; pathlib.Path('installed').read_text()\n" + SERVICE)
    process = stage.up("--engine", "vllm")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.index("Installing vLLM: torch") < out.index("inference is ready.")
    settings = json.loads((stage.path / "runs" / "demo" / "up.settings.json").read_text())
    assert settings["inference"]["engine"] == "vllm"


def test_a_vllm_that_cannot_be_installed_is_one_sentence_and_no_service_is_started(stage: Stage) -> None:
    stage.program("stand_in", INSTALLS.replace("display.status", "raise VPDError('no space'); display.status"))
    process = stage.up("--engine", "vllm")
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "error: no space\n")
    assert not list((stage.path / "runs" / "demo").glob("logs/*.log"))


def test_a_service_that_is_never_ready_is_one_sentence_with_its_own_reason(stage: Stage) -> None:
    stage.program("stand_in", "cli.up.ready_s = lambda name, settings: 0.0 if Path('answered').exists() else 300.0\n")
    ready = 'self.send_response(200); self.end_headers(); self.wfile.write(b"{}")'
    problem = """open('answered', 'w').close(); self.send_response(503); self.end_headers()
        self.wfile.write(b'{"detail": "engine: vLLM loads the model."}')"""
    stage.program("inference", SERVICE.replace(ready, problem))
    process = stage.up()
    _, err = process.communicate()
    log = "runs/demo/logs/inference.log"
    assert err == f"error: inference was not ready after 0 s: engine: vLLM loads the model. (log: {log})\n"
    assert process.returncode == 1


def test_only_inference_with_vllm_may_take_as_long_as_vllm_is_allowed_to() -> None:
    settings = resolve_settings([], ["inference.engine=vllm", "inference.vllm.start_timeout_s=900"], {}).settings
    assert ready_s("inference", settings) == 900
    assert ready_s("code-feedback", settings) == READY_S
    assert ready_s("inference", resolve_settings([], ["inference.vllm.start_timeout_s=900"], {}).settings) == READY_S


def test_a_learner_that_fails_is_one_sentence_with_its_last_words(stage: Stage) -> None:
    stage.program("learner", "import sys; print('error: the disk is full'); sys.exit(1)")
    stage.program("collector", COLLECTOR.format(seconds=600))
    process = stage.up()
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines() == ["error: learner ended with code 1: the disk is full (log: runs/demo/logs/learner.log)"]


def test_kept_services_stay_up_for_status_and_go_with_down(stage: Stage) -> None:
    kept = stage.up("--keep")
    out, err = kept.communicate()
    assert (kept.returncode, err) == (0, "")
    assert "The services stay up until `vpd down`" in out
    pids = stage.pids()
    assert set(pids) == {"redis", "inference", "code-feedback", "critic-feedback", "human-feedback"}
    status = stage.vpd("status").communicate()[0]
    assert status.startswith("runs/demo: kept up after its run\n")
    assert f"http://127.0.0.1:{stage.base_port} is ready" in status
    assert "are still up" in stage.up("--fresh").communicate()[1]
    assert stage.vpd("down").communicate()[0] == "The stack of runs/demo is down.\n"
    assert not any(map(lives, pids.values()))


def test_down_stops_a_stack_whose_run_goes_on(stage: Stage) -> None:
    stage.program("learner", LEARNER + HANG)
    process = stage.up()
    eventually(stage.trains, "the run goes on")
    pids = list(stage.pids().values())
    assert stage.vpd("status").communicate()[0].startswith("runs/demo: a run goes on\n")
    assert stage.vpd("down", "demo").communicate()[0] == "The stack of runs/demo is down.\n"
    process.communicate()
    assert process.returncode == 143
    assert not any(map(lives, pids))
