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
import dataclasses
import sys
from pathlib import Path
import cli.stack
import cli.up
from cli.processes import Spec
from shared.load_settings import resolve_settings

programs, arguments = Path(sys.argv[1]), sys.argv[2:]

def spec(name, tier, restarts, *extra):
    command = [sys.executable, str(programs / f"{name}.py"), *extra]
    return Spec(name, command, tier=tier, restarts=restarts, optional=name in cli.stack.OPTIONAL)

cli.up.resolve_model = lambda path: path
cli.up.service_specs = lambda plan, file: [spec(n, 1, 3, str(p), str(file)) for n, p in plan.ports.items()]

def job_spec(planned, run):
    kind = planned.name.partition("-")[0]
    command = [sys.executable, str(programs / f"{kind}.py"), run]
    return dataclasses.replace(planned, command=command)

planned_jobs = cli.up.job_specs
cli.up.job_specs = lambda settings, file: [job_spec(one, str(Path(settings.run.dir) / settings.run.name))
                                           for one in planned_jobs(settings, file)]
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
UNTIL_GO = "while not (run / 'go').exists(): time.sleep(0.02)\n"
HANG = "time.sleep(600)\n"
ASKED = """
import signal
def stop(*_):
    (run / "asked").touch()
    {then}
signal.signal(signal.SIGTERM, stop)
(run / "ready").touch()
time.sleep(600)
"""
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
        self.run = path / "runs" / "demo"
        self.programs = path / "programs"
        self.programs.mkdir()
        for name in ("inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard"):
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
    # A file in Redis 6, a folder from Redis 7 on.
    assert list((stage.path / "runs" / "demo" / "redis").glob("appendonly*"))


def test_a_dashboard_that_cannot_start_costs_the_run_nothing(stage: Stage) -> None:
    stage.program("dashboard", "print('error: no page'); raise SystemExit(1)")
    process = stage.up()
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "no page (log: runs/demo/logs/dashboard.log); the run goes on without it." in out
    assert "25.0 % → 75.0 %" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_learner_finish_stops_everything_and_says_how_to_go_on(
    stage: Stage, number: signal.Signals
) -> None:
    stage.program("learner", LEARNER + ASKED.format(then="time.sleep(0.3); sys.exit(0)"))
    process = stage.up("--fresh")
    eventually((stage.run / "ready").exists, "the run goes on")
    eventually(stage.trains, "it is noted")
    pids = list(stage.pids().values())
    assert len(pids) >= 6
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"go on from the last checkpoint: ./vpd up --base-port {stage.base_port} --set run.steps=3\n" in out
    assert (stage.run / "asked").exists()
    assert not any(map(lives, pids))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_does_not_wait_for_the_learner(stage: Stage, number: signal.Signals, code: int) -> None:
    stage.program("learner", LEARNER + ASKED.format(then="time.sleep(600)"))
    process = stage.up()
    eventually((stage.run / "ready").exists, "the run goes on")
    eventually(stage.trains, "it is noted")
    pids = list(stage.pids().values())
    process.send_signal(number)
    eventually((stage.run / "asked").exists, "the learner is asked to stop")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, err) == (code, "")
    assert "go on from the last checkpoint" in out
    assert not any(map(lives, pids))


def test_a_signal_before_the_run_has_begun_is_the_exit_code(stage: Stage) -> None:
    stage.program("inference", "open('waiting', 'w').close(); import time; time.sleep(600)")
    process = stage.up()
    eventually((stage.path / "waiting").exists, "a service is started")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert not (stage.run / "logs" / "learner.log").exists()


def test_a_learner_that_fails_when_asked_to_stop_is_one_sentence(stage: Stage) -> None:
    stage.program("learner", LEARNER + ASKED.format(then="sys.exit('error: the disk is full')"))
    process = stage.up()
    eventually((stage.run / "ready").exists, "the run goes on")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == "error: learner ended with code 1: the disk is full (log: runs/demo/logs/learner.log)\n"


def test_a_run_that_completes_while_it_is_asked_to_stop_shows_its_result(stage: Stage) -> None:
    stage.program("learner", LEARNER + ASKED.format(then=FINISH.strip() + "; sys.exit(0)"))
    process = stage.up()
    eventually((stage.run / "ready").exists, "the run goes on")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "25.0 % → 75.0 %" in out and "go on from" not in out


@pytest.mark.parametrize("job", ["collector", "learner"])
def test_a_job_that_the_kernel_kills_comes_back_with_a_visible_line(stage: Stage, job: str) -> None:
    stage.program("collector", "import pathlib, sys, time\nrun = pathlib.Path(sys.argv[1])\n" + UNTIL_GO)
    stage.program("learner", LEARNER + UNTIL_GO + FINISH)
    process = stage.up()
    eventually(stage.trains, "the run goes on")
    old = stage.pids()[job]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: stage.pids().get(job, old) != old, "it is started again")
    (stage.run / "go").touch()
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"{job} was killed by SIGKILL (out of memory?); starting it again (3 left)." in out


def test_several_collectors_have_a_name_each_which_status_and_down_know(stage: Stage) -> None:
    stage.program("learner", LEARNER + HANG)
    named = "import os, pathlib, sys, time\nrun = pathlib.Path(sys.argv[1])\n"
    stage.program("collector", named + "(run / os.environ['VPD_COLLECTOR_NAME']).touch()\n" + HANG)
    several = ("--set", "rollout.mode=overlapped", "--set", "rollout.collectors=3")
    process = stage.up(*several)
    names = ("collector", "collector-2", "collector-3")
    eventually(lambda: all((stage.run / name).exists() for name in names), "every collector has its name")
    eventually(lambda: set(names) <= stage.pids().keys(), "they are noted")
    pids = stage.pids()
    status = stage.vpd("status").communicate()[0]
    assert all(f"  {name}: process {pids[name]}\n" in status for name in names)
    stage.vpd("down").communicate()
    process.communicate()
    assert process.returncode == 0
    assert not any(map(lives, pids.values()))


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
    stage.program("learner", LEARNER + UNTIL_GO + FINISH)
    process = stage.up()
    eventually(stage.trains, "the run goes on")
    old = stage.pids()["code-feedback"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: stage.pids().get("code-feedback", old) != old, "it is started again")
    (stage.run / "go").touch()
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
    assert set(pids) == {"redis", "inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard"}
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
    assert process.returncode == 0
    assert not any(map(lives, pids))
