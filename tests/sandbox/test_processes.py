"""Warm servers: they last, are replaced when they do not, and carry nothing from one candidate to the next."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.isolation import Isolation, Tier
from sandbox.processes import ENVIRONMENT, Server
from sandbox.verdicts import Verdict
from tests.sandbox.programs import call_task, first, run, tier_missing

KILL_THE_SERVER = (
    "import os\n"
    "stat = open(f'/proc/{os.getppid()}/stat').read()\n"
    "os.kill(int(stat.rpartition(')')[2].split()[1]), 9)\n"
    "while True: pass"
)
FIND_IN_OWN_MEMORY = (
    "import re\n"
    "wanted = re.compile(rb'of a[n]other candidate')\n"
    "for line in open('/proc/self/maps').read().splitlines():\n"
    "    where, rights = line.split()[:2]\n"
    "    if rights[0] != 'r' or '[v' in line: continue\n"
    "    start, end = (int(x, 16) for x in where.split('-'))\n"
    "    with open('/proc/self/mem', 'rb', 0) as memory:\n"
    "        memory.seek(start)\n"
    "        print('found' if wanted.search(memory.read(end - start)) else '', end='')\n"
    "print('end')\n"
)


@pytest.fixture(params=["landlock", "unsafe"])
def warm(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    """A sandbox of its own for one test, in each tier that has servers."""
    tier: Tier = request.param
    if tier == "landlock" and (reason := tier_missing("landlock")):
        pytest.skip(reason)
    one = Isolation(tier)
    yield one
    one.close()


def test_candidates_in_turn_share_one_server_which_keeps_nothing_of_them(warm: Isolation) -> None:
    first(warm, "", "", "")  # by now it is past its own start, which opens files
    server = idle(warm)
    ours, theirs = descriptors(os.getpid()), descriptors(server._process.pid)
    for _ in range(3):
        assert first(warm, "print(input())", "7", "7").verdict is Verdict.PASSED
        assert first(warm, "if", "", "").verdict is Verdict.COMPILE_ERROR
    assert idle(warm) is server
    assert (descriptors(os.getpid()), descriptors(server._process.pid)) == (ours, theirs)
    assert children(server._process.pid) == ""


def test_a_server_starts_with_nothing_of_ours(warm: Isolation) -> None:
    first(warm, "", "", "")  # by now it is past its own start
    environment = Path(f"/proc/{idle(warm)._process.pid}/environ").read_bytes()
    names = {line.partition(b"=")[0].decode() for line in environment.split(b"\0") if line}
    assert names == set(ENVIRONMENT)
    assert len(descriptors(idle(warm)._process.pid)) == 3


def test_candidates_at_once_have_a_server_each(warm: Isolation) -> None:
    waiting = "def solve(x):\n    import time\n    time.sleep(0.3)\n    return x\n"
    with ThreadPoolExecutor(3) as threads:
        reports = list(threads.map(lambda _: run(warm, call_task(("1", "1")), waiting), range(6)))
    assert all(report.success for report in reports)
    assert 1 <= len(warm._servers._idle) <= 3


def test_a_dead_server_is_replaced(warm: Isolation) -> None:
    dead = idle(warm)
    os.kill(dead._process.pid, signal.SIGKILL)
    assert first(warm, "print(input())", "7", "7").verdict is Verdict.PASSED
    assert idle(warm) is not dead
    assert dead._process.returncode == -signal.SIGKILL


def test_a_server_that_dies_under_a_program_is_the_programs_failure() -> None:
    isolation = Isolation("unsafe")
    try:
        assert first(isolation, KILL_THE_SERVER, "", "").verdict is Verdict.RUNTIME_ERROR
        assert first(isolation, "print(input())", "7", "7").verdict is Verdict.PASSED
    finally:
        isolation.close()


@pytest.mark.skipif(
    os.geteuid() != 0, reason="without root a process that may not be dumped cannot read its own memory"
)
def test_a_candidate_finds_nothing_of_the_one_before_in_its_memory() -> None:
    isolation = Isolation("unsafe")
    try:
        assert first(isolation, "print('of another candidate')", "", "of another candidate").verdict is Verdict.PASSED
        assert first(isolation, FIND_IN_OWN_MEMORY, "", "end").verdict is Verdict.PASSED
        itself = FIND_IN_OWN_MEMORY + "'of another candidate'"
        assert "found" in (first(isolation, itself, "", "end").output or "")
    finally:
        isolation.close()


@pytest.mark.skipif(tier_missing("landlock") is not None, reason="needs Landlock")
@pytest.mark.parametrize(
    "action",
    [
        "os.kill(server, 0)",
        "os.killpg(server, 0)",
        "os.pidfd_open(server)",
        "resource.prlimit(server, resource.RLIMIT_CPU)",
        "open(f'/proc/{server}/mem', 'rb')",
        "open(f'/proc/{server}/fd/0')",
        "os.setpriority(os.PRIO_PROCESS, server, 19)",
    ],
)
def test_a_candidate_cannot_reach_its_server(quick: Isolation, action: str) -> None:
    program = f"import os, resource\nserver = int(input())\ntry: {action}\nexcept OSError: print('refused')"
    server = idle(quick)._process.pid
    assert first(quick, program, str(server), "refused").verdict is Verdict.PASSED
    assert idle(quick)._process.pid == server


def test_closing_ends_the_servers(warm: Isolation) -> None:
    server = idle(warm)
    assert first(warm, "print(input())", "7", "7").verdict is Verdict.PASSED
    warm.close()
    assert server._process.returncode is not None


def idle(isolation: Isolation) -> Server:
    """The server that the next candidate gets."""
    return isolation._servers._idle[-1]


def descriptors(pid: int) -> list[str]:
    return sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()
