"""What every test of a hostile program holds: its verdict, the next program's verdict, and that nothing is left."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.isolation import Isolation
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask
from sandbox.verdicts import Report, TestReport, Verdict
from tests.sandbox.programs import call_task, stdin_task

LIMITS = Defaults(time_limit_s=0.4, memory_limit_mb=64, output_bytes=2**20)
SHARED_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")
MARK = "hostile-residue"
"""Part of the name of every file a program of these tests tries to leave outside its own directory."""


@dataclass(frozen=True)
class Traces:
    """What this process and the sandbox hold now."""

    files: tuple[str, ...]
    marked: tuple[str, ...]
    descriptors: int
    processes: tuple[int, ...]
    mounts: int


def traces(isolation: Isolation) -> Traces:
    """Files of the sandbox, marked files anywhere a user can write, descriptors, processes below us, mounts."""
    files = sorted(str(path) for path in isolation._directory.rglob("*"))
    marked = [
        str(path) for where in SHARED_DIRECTORIES if Path(where).is_dir() for path in Path(where).glob(f"*{MARK}*")
    ]
    idle = {server.pid for server in isolation._servers._idle}  # warm servers wait for the next, one descriptor each
    descriptors = len(list(Path("/proc/self/fd").iterdir())) - len(idle)
    processes = tuple(sorted(pid for pid in _below(os.getpid()) if pid not in idle))
    mounts = Path("/proc/self/mounts").read_text().count("\n")
    return Traces(tuple(files), tuple(marked), descriptors, processes, mounts)


@contextmanager
def nothing_left(isolation: Isolation) -> Iterator[None]:
    """Hold that what runs inside leaves nothing behind, and that an honest program is then judged as ever."""
    assert honest(isolation).verdict is Verdict.PASSED  # its server is started by now
    before = traces(isolation)
    yield
    assert traces(isolation) == before
    assert honest(isolation).verdict is Verdict.PASSED
    assert traces(isolation) == before
    wait_for_the_end(isolation)


def wait_for_the_end(isolation: Isolation) -> None:
    """Wait until the kernel has taken down the namespaces of what was killed; fail if something lives on in them."""
    directory = str(isolation._directory).encode()
    ends_at = time.monotonic() + 10
    while [pid for pid, command in _commands() if directory in command and b"--unshare-pid" in command]:
        assert time.monotonic() < ends_at, "a process lives on in a namespace of the sandbox"
        time.sleep(0.005)


def honest(isolation: Isolation) -> TestReport:
    """The report on a program that is right."""
    return judge(isolation, stdin_task(("3 4", "7")), "print(sum(map(int, input().split())))", LIMITS).tests[0]


def judged(isolation: Isolation, task: CodeTask, program: str, limits: Defaults = LIMITS) -> Report:
    """The report on `program`, held to leave nothing behind."""
    with nothing_left(isolation):
        return judge(isolation, task, program, limits)


def printed(isolation: Isolation, program: str, given: str = "") -> str:
    """What a program prints, held to leave nothing behind. It must come to a proper end."""
    report = judged(isolation, stdin_task((given, "held")), program).tests[0]
    assert report.verdict in (Verdict.PASSED, Verdict.WRONG_ANSWER), report
    return (report.output or "").strip()


def asked(isolation: Isolation, program: str, wanted: str) -> TestReport:
    """The report on a program that is called as `solve(3)`, held to leave nothing behind."""
    return judged(isolation, call_task(("3", wanted)), program).tests[0]


def _commands() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield int(path.parent.name), path.read_bytes()


def _below(pid: int) -> list[int]:
    """Every process below `pid`, in whatever session, without those that a test runner itself has."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = re.sub(r"\(.*\)", "x", stat.read_text(), flags=re.DOTALL).split()
        except OSError:
            continue
        if int(fields[3]) == pid:
            found += [int(fields[0]), *_below(int(fields[0]))]
    return found
