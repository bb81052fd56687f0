"""The tier docker, against a real engine: the same verdicts, the same walls, one container for each program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from sandbox.attack import open_configured, weaknesses
from sandbox.isolation import ContainerOptions, Isolation
from sandbox.judge import Defaults, judge
from sandbox.verdicts import Verdict
from shared.errors import SettingsError
from shared.settings import CodeFeedbackSettings
from tests.sandbox import (
    test_adversarial_escape,
    test_adversarial_exhaustion,
    test_adversarial_forgery,
    test_adversarial_leaks,
)
from tests.sandbox.programs import call_task, first, run, stdin_task

docker = pytest.importorskip("docker.errors") and pytest.importorskip("docker")
pytestmark = pytest.mark.compose

LIMITS = Defaults(time_limit_s=1.0, memory_limit_mb=64, output_bytes=2**20)
NESTED = "".join(f"{' ' * d}try:\n{' ' * d} pass\n{' ' * d}finally:\n" for d in range(1, 12)) + f"{' ' * 12}pass\n"
SLOW_TO_COMPILE = "".join(f"def f{i}():\n{NESTED}" for i in range(3000))
IMAGES = ("python:3.11-slim-bookworm", "vpd-code-feedback")
"""The images of this project's stack that hold a Python: the first that the engine has is taken."""
KILLED_OWNER = """
import sys, time
from sandbox.containers import ContainerIsolation
from sandbox.isolation import ContainerOptions
isolation = ContainerIsolation(ContainerOptions(sys.argv[1]))
print(isolation._spare[0].result()._container.id, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def engine() -> Any:
    """The engine's own client, to look at what there is."""
    try:
        return docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {str(error)[:200]}")


@pytest.fixture(scope="module")
def image(engine: Any) -> str:
    """An image with a Python that the engine has."""
    for name in IMAGES:
        with suppress(docker.errors.ImageNotFound):
            engine.images.get(name)
            return name
    pytest.skip(f"the engine has none of the images {', '.join(IMAGES)}")


@pytest.fixture(scope="module")
def containers(image: str) -> Iterator[Isolation]:
    """The tier docker, attacked at its start as a service would."""
    one = open_configured(CodeFeedbackSettings(isolation="docker", docker_image=image))
    yield one
    one.close()


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("print(input())", Verdict.PASSED),
        ("print(open('/dev/stdin').read())", Verdict.PASSED),
        ("import threading\nthreading.Thread(target=lambda: print(input())).start()", Verdict.PASSED),
        ("print(8)", Verdict.WRONG_ANSWER),
        ("1 / 0", Verdict.RUNTIME_ERROR),
        ("if", Verdict.COMPILE_ERROR),
        ("while True: pass", Verdict.TIME_LIMIT),
        ("x = []\nwhile True: x.append(bytearray(2 ** 20))", Verdict.MEMORY_LIMIT),
        ("while True: print('x' * 1000)", Verdict.OUTPUT_LIMIT),
        ("import os\nwhile True: os.fork()", Verdict.RUNTIME_ERROR),
        ("n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').close()", Verdict.OUTPUT_LIMIT),
        (SLOW_TO_COMPILE, Verdict.COMPILE_ERROR),
    ],
)
def test_a_program_gets_the_verdict_it_gets_elsewhere(containers: Isolation, program: str, verdict: Verdict) -> None:
    assert first(containers, program, "7", "7", time_limit_s=1.0, memory_limit_mb=64).verdict is verdict


def test_much_output_comes_through_whole(containers: Isolation) -> None:
    task = stdin_task(("", "x" * 1_000_000), ("", "x" * 1_000_000))
    assert run(containers, task, "print('x' * 1000000)").success


def test_values_and_tests_of_a_call_come_through(containers: Isolation) -> None:
    task = call_task(("[1, 2]", "[2, 1]"), ("[]", "[]"), ("[3]", "[3]"))
    assert run(containers, task, "def solve(x): return x[::-1]").success


def test_the_attacks_of_the_start_up_probe_find_nothing(containers: Isolation) -> None:
    assert weaknesses(containers) == []


@pytest.mark.parametrize(
    "action",
    [
        "open('/proc/1/environ').read()",
        "open('/proc/1/mem', 'rb')",
        "os.listdir('/proc/1/fd')",
        "open('/etc/hosts', 'a')",
        "open('/hostile', 'w')",
        "open('/sys/fs/cgroup/cgroup.procs', 'w')",
        "open('/dev/shm/x', 'w')",
        "os.kill(1, 9)",
        "os.setuid(0)",
        "socket.socket()",
        "os.open('/var/run/docker.sock', os.O_RDWR)",
        "os.execv('/bin/sh', ['sh'])",
    ],
)
def test_an_escape_is_refused(containers: Isolation, action: str) -> None:
    program = f"import os, socket\ntry: {action}\nexcept OSError: print('held')\nelse: print('not held')"
    assert first(containers, program, "", "held").verdict is Verdict.PASSED


def test_nothing_of_the_machine_is_mounted(containers: Isolation) -> None:
    program = "print(*sorted(line.split()[1] for line in open('/proc/mounts') if line.startswith('/dev/')))"
    engines_own = "/etc/hostname /etc/hosts /etc/resolv.conf"
    assert first(containers, program, "", engines_own).verdict is Verdict.PASSED


def test_each_program_has_a_container_of_its_own(containers: Isolation, engine: Any) -> None:
    mark = "import os\nprint(os.listdir('/tmp'), open('/proc/self/cgroup').read())\nopen('/tmp/left', 'w').close()"
    outputs = [first(containers, mark, "", "-").output or "" for _ in range(3)]
    assert all(output.startswith("[]") for output in outputs)


def test_a_container_is_gone_when_its_program_is(
    containers: Isolation, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, used = containers.start, []
    monkeypatch.setattr(containers, "start", lambda: used.append(start()) or used[-1])
    first(containers, "import os\nos.kill(os.getpid(), 9)")
    identities = {one._container.id for one in used}
    assert identities
    eventually(lambda: not identities & ours(engine, all=True))


def test_programs_at_once_do_not_meet(containers: Isolation) -> None:
    alone = "import os\nprint(input(), len(os.listdir('/tmp')))"
    with ThreadPoolExecutor(3) as threads:
        reports = threads.map(lambda n: first(containers, alone, str(n), f"{n} 0"), range(6))
    assert all(report.verdict is Verdict.PASSED for report in reports)


def test_a_killed_service_leaves_no_container_that_runs(engine: Any, image: str) -> None:
    command = [sys.executable, "-P", "-c", KILLED_OWNER, image]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}) as owner:
        assert owner.stdout is not None
        its_own = owner.stdout.readline().decode().strip()
        assert its_own in ours(engine)
        owner.send_signal(signal.SIGKILL)
    eventually(lambda: its_own not in ours(engine))


def test_what_a_killed_service_left_is_removed_by_the_next(engine: Any, image: str) -> None:
    left = engine.containers.create(image, "true", labels={"vpd.sandbox": ""})
    from sandbox.containers import ContainerIsolation

    ContainerIsolation(ContainerOptions(image)).close()
    assert left.id not in ours(engine, all=True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"docker_host": "unix:///nonexistent.sock"}, "no Docker engine answers"),
        ({"docker_image": "no-such-image:x"}, "the engine has no image 'no-such-image:x'"),
        ({"docker_runtime": "no-such-runtime"}, "the engine has no runtime 'no-such-runtime'"),
    ],
)
def test_an_engine_that_cannot_do_it_is_refused_in_a_sentence(image: str, settings: dict[str, str], why: str) -> None:
    wanted = CodeFeedbackSettings.model_validate({"isolation": "docker", "docker_image": image, **settings})
    with pytest.raises(SettingsError, match=f"code_feedback.isolation 'docker': {re.escape(why)}"):
        open_configured(wanted)


def test_the_tier_needs_an_image() -> None:
    with pytest.raises(ValueError, match=r"needs code_feedback\.docker_image"):
        CodeFeedbackSettings(isolation="docker")


@pytest.mark.parametrize("name", test_adversarial_exhaustion.CASES)
def test_a_program_that_takes_all_there_is_meets_its_limit(containers: Isolation, name: str) -> None:
    case = test_adversarial_exhaustion.CASES[name]
    more = {"time_limit_s": case.time_limit_s, "memory_limit_mb": case.memory_limit_mb}
    report = judge(containers, stdin_task(("", "right"), **more), case.program, LIMITS).tests[0]
    assert report.verdict in case.verdicts, report


@pytest.mark.parametrize("name", test_adversarial_escape.ACTIONS)
def test_it_cannot(containers: Isolation, name: str) -> None:
    action = test_adversarial_escape.REFUSED.replace("{action}", test_adversarial_escape.ACTIONS[name])
    assert first(containers, action, "", "held").verdict is Verdict.PASSED


@pytest.mark.parametrize("name", test_adversarial_forgery.TRICKS)
def test_no_trick_is_rewarded(containers: Isolation, name: str) -> None:
    task = test_adversarial_forgery.CALL
    assert judge(containers, task, test_adversarial_forgery.TRICKS[name], LIMITS).reward == 0.0
    assert judge(containers, task, test_adversarial_forgery.HONEST_CALL, LIMITS).reward == 1.0


@pytest.mark.parametrize("name", test_adversarial_leaks.REMEMBER)
def test_a_test_learns_nothing_from_the_one_before(containers: Isolation, name: str) -> None:
    task = stdin_task(("", "held"), ("", "held"), ("", "held"))
    assert judge(containers, task, test_adversarial_leaks.REMEMBER[name], LIMITS).success


def ours(engine: Any, **more: Any) -> set[str]:
    """Ids of the sandbox's containers; `all`: of those that have ended, too."""
    return {one["Id"] for one in engine.api.containers(filters={"label": "vpd.sandbox"}, **more)}


def eventually(reached: Any) -> None:
    """Wait until something holds; fail if it does not within half a minute."""
    ends_at = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < ends_at
        time.sleep(0.1)
