"""Many runs of many kinds of program: what the judging process holds must not grow.

    .venv/bin/python -m bench.sandbox_soak [RUNS [TIER]]        # default: 100000, the strongest tier that holds

Prints, at the start, every tenth of the way and at the end: resident memory, descriptors, threads, processes below it,
zombies, mounts and entries of the sandbox's directory. Exits with 1 if one of them has grown or a verdict is false.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from sandbox.attack import open_isolation
from sandbox.isolation import Isolation
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import Verdict

WORKERS = (os.cpu_count() or 1) + 1
LIMITS = Defaults(time_limit_s=0.2, memory_limit_mb=32, output_bytes=2**16)
WARM_UP = 200
STEPS = 10
AT_ONCE = 200
ALLOWED_RSS_KIB = 16 * 1024
"""Growth of resident memory after the first tenth that is the allocator's and not a leak."""

PROGRAMS: list[tuple[str, Verdict]] = [
    *[("print(input())", Verdict.PASSED)] * 10,
    *[("print(8)", Verdict.WRONG_ANSWER)] * 4,
    ("1 / 0", Verdict.RUNTIME_ERROR),
    ("import os; os.abort()", Verdict.RUNTIME_ERROR),
    ("import os; os._exit(3)", Verdict.RUNTIME_ERROR),
    ("if", Verdict.COMPILE_ERROR),
    ("blocks = [bytearray(2**20) for _ in range(256)]", Verdict.MEMORY_LIMIT),
    ("while True: print('x' * 4096)", Verdict.OUTPUT_LIMIT),
    ("open('left behind', 'w').write('x' * 10000); print(input())", Verdict.PASSED),
]
SLOW: list[tuple[str, Verdict]] = [("while True: pass", Verdict.TIME_LIMIT)]
SLOW_SHARE = 50
"""One run of so many is an endless loop."""


@dataclass(frozen=True)
class Held:
    """What this process and its sandboxes hold while none runs."""

    rss_kib: int
    descriptors: int
    threads: int
    processes: int
    zombies: int
    mounts: int
    entries: int

    def grown_from(self, before: Held) -> list[str]:
        """The names of what is more than `before`; of resident memory a little more is allowed."""
        allowed = {"rss_kib": ALLOWED_RSS_KIB}
        names = [field.name for field in fields(self)]
        return [name for name in names if getattr(self, name) > getattr(before, name) + allowed.get(name, 0)]

    def __str__(self) -> str:
        return "  ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))


def main() -> None:
    """Print what is held as it goes; exit with 1 if it has grown."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    isolation = open_isolation(sys.argv[2] if len(sys.argv) > 2 else "auto")
    try:
        wrong = soak(isolation, runs)
    finally:
        isolation.close()
    print("\n".join(wrong) or "flat, and no false verdict")
    sys.exit(bool(wrong))


def soak(isolation: Isolation, runs: int) -> list[str]:
    """Judge `runs` programs, and print what is held. What has grown, and false verdicts, a sentence each."""
    wrong: Counter[str] = Counter()
    task = parse_task("code.stdin", {"tests": [{"input": "7", "output": "7"}]})
    started = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as threads:

        def judge_some(first: int, count: int) -> Held:
            for start in range(first, first + count, AT_ONCE):  # so that what waits takes the same room in every step
                numbers = range(start, min(start + AT_ONCE, first + count))
                wrong.update(filter(None, threads.map(lambda number: _false(isolation, task, number), numbers)))
            return held(isolation)

        print(f"{isolation.tier}, after {WARM_UP} to warm up: {judge_some(0, WARM_UP)}", flush=True)
        before, now = None, None
        for step in range(STEPS):
            now = judge_some(step * (runs // STEPS), runs // STEPS)
            print(f"{(step + 1) * (runs // STEPS)} runs, {time.monotonic() - started:.0f} s: {now}", flush=True)
            before = before or now
    assert before is not None and now is not None
    false = [f"{count} times {words}" for words, count in wrong.most_common(10)]
    grown = [f"{name} has grown: {getattr(before, name)}, {getattr(now, name)}" for name in now.grown_from(before)]
    return false + grown


def held(isolation: Isolation) -> Held:
    """What is held now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    states = _descendants(os.getpid())
    return Held(
        rss_kib=int(status["VmRSS"].split()[0]),
        descriptors=len(list(Path("/proc/self/fd").iterdir())) - 1,
        threads=int(status["Threads"]),
        processes=len(states),
        zombies=states.count("Z"),
        mounts=len(Path("/proc/self/mounts").read_text().splitlines()),
        entries=sum(1 for _ in isolation._directory.rglob("*")),
    )


def _false(isolation: Isolation, task: CodeTask, number: int) -> str | None:
    among = SLOW if number % SLOW_SHARE == SLOW_SHARE - 1 else PROGRAMS
    program, wanted = among[number % len(among)]
    report = judge(isolation, task, program, LIMITS)
    verdict = report.tests[0].verdict
    return None if verdict is wanted else f"{verdict} for {program!r}, which is {wanted}"


def _descendants(ancestor: int) -> list[str]:
    """The states (`R`, `S`, `Z` and so on) of all processes below `ancestor`."""
    children: dict[int, list[tuple[int, str]]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(process.name), state))
    found, todo = [], [ancestor]
    while todo:
        below = children.get(todo.pop(), [])
        found += [state for _, state in below]
        todo += [pid for pid, _ in below]
    return found


if __name__ == "__main__":
    main()
