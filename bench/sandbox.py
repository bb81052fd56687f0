"""How fast programs are judged: candidates a second and milliseconds each, beside a bare interpreter's start.

    .venv/bin/python -m bench.sandbox [TIER ...]        # default: every real tier of this machine

Each candidate is a tiny function with eight tests that it passes, so that all eight processes are paid for. The bare
start is measured in the same run, since machines and their load differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sandbox.attack import open_isolation
from sandbox.isolation import STRONGEST_FIRST, Isolation, Tier
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from shared.errors import SettingsError

CANDIDATES = 100
WORKERS = os.cpu_count() or 1
PROGRAM = "import lib\n\ndef solve(x):\n    x = lib.plus(x, 3)\n    return x\n"


def main() -> None:
    """Print one line for each tier."""
    bare = _per_second(_start_bare)
    print(f"bare `python -I -S -c pass`: {bare:.0f}/s with {WORKERS} workers")
    for tier in sys.argv[1:] or STRONGEST_FIRST:
        try:
            isolation = open_isolation(tier)
        except SettingsError as error:
            print(f"{tier}: {error}")
            continue
        try:
            _report(isolation, bare)
        finally:
            isolation.close()


def _report(isolation: Isolation, bare: float) -> None:
    task = _task()

    def one() -> None:
        assert judge(isolation, task, PROGRAM, Defaults()).success

    one()
    started = time.perf_counter()
    for _ in range(20):
        one()
    alone_ms = (time.perf_counter() - started) * 1000 / 20
    rate = _per_second(one)
    tier: Tier = isolation.tier
    print(
        f"{tier}: {rate:.1f} candidates/s ({rate * 8:.0f} tests/s), {alone_ms:.1f} ms alone, {rate / bare:.2f} of bare"
    )


def _task() -> CodeTask:
    tests = [{"input": str(x), "output": str(x + 3)} for x in range(8)]
    files = {"lib.py": "def plus(a, b):\n    return a + b\n"}
    return parse_task("code.functional", {"tests": tests, "fn_name": "solve", "files": files})


def _start_bare() -> None:
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    subprocess.run([python, "-I", "-S", "-c", "pass"], check=True, env={})


def _per_second(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(action) for _ in range(CANDIDATES)]:
            done.result()
    return CANDIDATES / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
