"""How fast programs are judged, beside a bare interpreter's start and a bare fork in the same run.

    .venv/bin/python -m bench.sandbox [TIER ...]        # default: every real tier of this machine

    isolated runs/s    candidates of one trivial test each: every run has a sandbox of its own
    candidates/s       candidates of twelve short tests, all passed
    first, further     milliseconds of a candidate alone: sandbox, compiling and the first test; each test after it
    CPU                milliseconds of all processes for an isolated run: what a busy machine changes least; not known
                       for bubblewrap, whose processes are not ours to wait for
    by HTTP            requests with 64 different programs of one test each

The bare figures are measured in the same run, since machines and their load differ.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

from bench.sandbox_service import Case, ask_all, describe, service
from sandbox.attack import open_isolation
from sandbox.isolation import STRONGEST_FIRST, Isolation, Tier
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from shared.errors import SettingsError

SECONDS = 5.0
WORKERS = os.cpu_count() or 1
TESTS = 12
BATCH = 64
BATCHES = 20
PROGRAM = "print(input())"
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def main() -> None:
    """Print the bare figures, then some lines for each tier."""
    print(f"{WORKERS} workers, load {os.getloadavg()[0]:.1f} before")
    for name, action in (("bare fork", _fork), ("bare `python3 -I -S -c pass`", _start_python)):
        before = _cpu_s()
        rate = _per_second(action)
        print(f"{name}: {rate:.0f}/s, CPU {(_cpu_s() - before) / (rate * SECONDS) * 1000:.1f} ms")
    for tier in [tier for tier in get_args(Tier) if tier in sys.argv[1:]] or STRONGEST_FIRST:
        try:
            isolation = open_isolation(tier)
        except SettingsError as error:
            print(f"{tier}: {error}")
            continue
        try:
            print(f"{tier}: {_judged(isolation)}")
        finally:
            isolation.close()
        if tier != "bubblewrap":
            print(f"{tier}: CPU {_cpu_of_a_run(tier):.1f} ms")
        print(f"{tier} by HTTP, batches of {BATCH}: {_by_http(tier)}")


def _judged(isolation: Isolation) -> str:
    one, twelve = _candidate(isolation, 1), _candidate(isolation, TESTS)
    runs, candidates = _per_second(one), _per_second(twelve)
    first_ms, all_ms = _milliseconds(one), _milliseconds(twelve)
    further_ms = (all_ms - first_ms) / (TESTS - 1)
    return (
        f"{runs:.0f} isolated runs/s, {candidates:.1f} candidates/s ({candidates * TESTS:.0f} tests/s), "
        f"first {first_ms:.1f} ms, further {further_ms:.1f} ms"
    )


def _cpu_of_a_run(tier: Tier) -> float:
    before, runs = _cpu_s(), 200
    isolation = Isolation(tier)
    one = _candidate(isolation, 1)
    for _ in range(runs):
        one()
    isolation.close()  # from now on the time of its processes is known
    return (_cpu_s() - before) / runs * 1000


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _by_http(tier: str) -> str:
    cases = [Case(PROGRAM, 1.0, "Passed")] * (BATCH * BATCHES)
    with service(isolation=tier) as url:
        asyncio.run(ask_all(url, cases[:BATCH], batch=BATCH, clients=1))
        outcome = asyncio.run(ask_all(url, cases, batch=BATCH, clients=2))
    rate = outcome.answered / outcome.wall_s
    return f"{rate:.1f} requests/s, {rate * BATCH:.0f} programs/s; {describe(outcome)}"


def _candidate(isolation: Isolation, tests: int) -> Callable[[], None]:
    task = _task(tests)

    def one() -> None:
        assert judge(isolation, task, PROGRAM, Defaults()).success

    return one


def _task(tests: int) -> CodeTask:
    return parse_task("code.stdin", {"tests": [{"input": str(x), "output": str(x)} for x in range(tests)]})


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _start_python() -> None:
    subprocess.run([PYTHON, "-I", "-S", "-c", "pass"], check=True, env={})


def _per_second(action: Callable[[], None]) -> float:
    """How often a second `WORKERS` threads get it done, over `SECONDS`."""
    action()
    started = time.perf_counter()

    def repeat() -> int:
        count = 0
        while time.perf_counter() - started < SECONDS:
            action()
            count += 1
        return count

    with ThreadPoolExecutor(WORKERS) as threads:
        done = sum(future.result() for future in [threads.submit(repeat) for _ in range(WORKERS)])
    return done / (time.perf_counter() - started)


def _milliseconds(action: Callable[[], None]) -> float:
    """The median of a hundred, one at a time."""
    taken = []
    for _ in range(100):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


if __name__ == "__main__":
    main()
