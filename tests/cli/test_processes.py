"""The supervisor, with small real processes: restarts, last words, orderly and brutal ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from cli_support import environment, eventually, lives, python

from cli.processes import ProcessFailed, Spec, Supervisor, last_words

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
POLITE = """
import signal, sys, time
def bye(*_):
    print("bye", sys.argv[1], time.monotonic_ns(), flush=True)
    time.sleep(0.05)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]):
    supervisor = Supervisor(tmp_path / "logs", say=said.append)
    yield supervisor
    supervisor.stop(hurry=lambda: True)


def up(supervisor: Supervisor, name: str) -> bool:
    return supervisor.log(name).exists() and "up" in supervisor.log(name).read_text()


def test_a_service_that_dies_is_started_again_and_said(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start(Spec("svc", python(SLEEP), restarts=3))
    first = supervisor.pids()["svc"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.died("svc"), "the service is dead")
    supervisor.check()
    second = supervisor.pids()["svc"]
    assert second != first
    assert lives(second)
    assert said == ["svc was killed by SIGKILL (out of memory?); starting it again (3 left)."]


def test_a_service_that_dies_again_and_again_is_given_up_with_its_last_words(
    supervisor: Supervisor, said: list[str]
) -> None:
    supervisor.start(Spec("svc", python("print('error: no luck'); raise SystemExit(1)"), restarts=2))

    def gave_up() -> bool:
        try:
            supervisor.check()
        except ProcessFailed as failure:
            said.append(str(failure))
            return True
        return False

    eventually(gave_up, "the supervisor gives up")
    assert len(said) == 3
    assert said[-1].startswith("svc ended with code 1 3 times: no luck (log: ")


def test_what_is_optional_is_given_up_without_an_end_to_the_rest(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start(Spec("shown", python("print('error: no luck'); raise SystemExit(1)"), restarts=1, optional=True))

    def gave_up() -> bool:
        supervisor.check()
        return len(said) == 2

    eventually(gave_up, "the supervisor gives up")
    assert said[-1].startswith("shown ended with code 1 2 times: no luck (log: ")
    assert said[-1].endswith("; the run goes on without it.")
    supervisor.check()
    assert len(said) == 2


def test_a_job_that_fails_is_an_error_with_its_last_sentence(supervisor: Supervisor) -> None:
    code = "print('Traceback'); print('error: the queue is gone'); print('x'); raise SystemExit(3)"
    supervisor.start(Spec("job", python(code), ends=True, restarts=3))
    eventually(lambda: supervisor.died("job"), "the job ended")
    with pytest.raises(ProcessFailed, match="job ended with code 3: the queue is gone"):
        supervisor.check()


def test_a_job_that_ends_well_is_finished_and_not_started_again(supervisor: Supervisor) -> None:
    supervisor.start(Spec("job", python("print('done')"), ends=True, restarts=3))
    eventually(lambda: supervisor.died("job"), "the job ended")
    supervisor.check()
    assert supervisor.finished(["job"])
    assert supervisor.pids() == {}


def test_a_job_that_a_signal_killed_is_started_again_and_said(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start(Spec("job", python(SLEEP), ends=True, restarts=2))
    for left in (2, 1):
        os.kill(supervisor.pids()["job"], signal.SIGKILL)
        eventually(lambda: supervisor.died("job"), "the job is dead")
        supervisor.check()
        assert said.pop() == f"job was killed by SIGKILL (out of memory?); starting it again ({left} left)."
    os.kill(supervisor.pids()["job"], signal.SIGSEGV)
    eventually(lambda: supervisor.died("job"), "the job is dead")
    with pytest.raises(ProcessFailed, match="job was killed by SIGSEGV 3 times: "):
        supervisor.check()


@pytest.mark.parametrize(
    ("code", "well"),
    [
        (POLITE, True),
        ("print('up', flush=True); " + SLEEP, True),
        (POLITE.replace("exit(0)", "exit(1)"), None),
        (STUBBORN, False),
    ],
    ids=["ends with 0", "had not begun", "fails", "takes too long"],
)
def test_jobs_that_are_asked_to_finish_have_done_so_only_if_they_ended_well(
    supervisor: Supervisor, code: str, well: bool | None
) -> None:
    supervisor.start(Spec("svc", python(SLEEP)))
    assert not supervisor.finish()
    grace_s = 0.1 if well is False else 100.0
    supervisor.start(Spec("job", python(code, "job"), ends=True, grace_s=grace_s))
    eventually(lambda: up(supervisor, "job"), "the job runs")
    if well is None:
        with pytest.raises(ProcessFailed, match="job ended with code 1: "):
            supervisor.finish()
    else:
        assert supervisor.finish() is well
    assert list(supervisor.pids()) == ["svc"]


def test_last_words_of_an_earlier_launch_are_not_repeated(supervisor: Supervisor) -> None:
    supervisor.log("job").parent.mkdir()
    supervisor.log("job").write_text("error: yesterday's trouble\n")
    supervisor.start(Spec("job", python("raise SystemExit(1)")))
    eventually(lambda: supervisor.died("job"), "the job ended")
    assert "it left no message" in str(supervisor.failure("job"))


def test_stopping_goes_down_the_tiers(supervisor: Supervisor) -> None:
    for tier, name in enumerate(("redis", "service", "job")):
        supervisor.start(Spec(name, python(POLITE, name), tier=tier))
    for name in ("redis", "service", "job"):
        eventually(lambda name=name: up(supervisor, name), f"{name} is up")
    logs = {name: supervisor.log(name) for name in ("job", "service", "redis")}
    supervisor.stop()
    times = [int(path.read_text().split()[-1]) for path in logs.values()]
    assert times == sorted(times)


def test_what_ignores_sigterm_is_killed_after_the_grace(supervisor: Supervisor) -> None:
    supervisor.start(Spec("svc", python(STUBBORN), grace_s=0.1))
    eventually(lambda: up(supervisor, "svc"), "it is up")
    pid = supervisor.pids()["svc"]
    supervisor.stop()
    assert not lives(pid)


def test_a_second_signal_cuts_the_grace_short(supervisor: Supervisor) -> None:
    supervisor.start(Spec("svc", python(STUBBORN), grace_s=10_000))
    eventually(lambda: up(supervisor, "svc"), "it is up")
    pid = supervisor.pids()["svc"]
    supervisor.stop(hurry=lambda: True)
    assert not lives(pid)


def test_a_child_of_a_process_goes_with_it(supervisor: Supervisor) -> None:
    family = f"import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); "
    supervisor.start(Spec("svc", python(family + "print(c.pid, flush=True); time.sleep(600)")))
    eventually(lambda: supervisor.log("svc").read_text().strip() != "", "the grandchild's pid is known")
    grandchild = int(supervisor.log("svc").read_text())
    supervisor.stop()
    eventually(lambda: not lives(grandchild), "the grandchild is gone")


SUPERVISE = """
import sys, time
from pathlib import Path
from cli.processes import Spec, Supervisor
supervisor = Supervisor(Path(sys.argv[1]), tethered=sys.argv[2] == "tethered")
for name in "ab":
    supervisor.start(Spec(name, [sys.executable, "-IS", "-c", "import time; print('up', flush=True); time.sleep(600)"]))
print(*supervisor.pids().values(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["tethered", "free"])
def test_tethered_processes_die_with_a_killed_supervisor_and_free_ones_live_on(tmp_path: Path, how: str) -> None:
    arguments = [sys.executable, "-c", SUPERVISE, str(tmp_path), how]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment())
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        for name in "ab":
            log = tmp_path / f"{name}.log"
            eventually(lambda log=log: log.exists() and "up" in log.read_text(), f"{name} is up")
        parent.kill()
        parent.wait()
        if how == "tethered":
            eventually(lambda: not any(map(lives, pids)), "the children are gone")
        else:
            assert all(map(lives, pids))
    finally:
        parent.stdout.close()
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)


def test_on_a_full_disk_the_error_says_so_since_the_log_cannot(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.start(Spec("job", python("raise SystemExit(1)")))
    eventually(lambda: supervisor.died("job"), "the job ended")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 0))
    assert "is full" in str(supervisor.failure("job"))


def test_a_log_that_is_not_there_has_no_last_words(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none.log") == "it left no message"
