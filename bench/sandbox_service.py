"""The code-feedback service as a process of its own, and clients that ask it: for the benchmarks beside this file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
KEY = "benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SERVE = "import sys; from cli.main import main; sys.argv = ['vpd', 'serve', 'code-feedback', '--port', '0']; main()"
ANSWER_TIMEOUT_S = 1800.0
MAX_WAIT_S = 5.0


@dataclass(frozen=True)
class Case:
    """A program that reads 7, and what must be said about it: its reward, and how its text begins."""

    program: str
    reward: float
    words: str
    time_limit_s: float = 60.0


@dataclass
class Outcome:
    """What became of requests: seconds each took, by the words of its case; refusals by 429; what is wrong."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that were answered."""
        return sum(len(some) for some in self.seconds.values())


@contextmanager
def service(**settings: object) -> Iterator[str]:
    """Base URL of the service with these settings of `code_feedback`."""
    own = {f"VPD_CODE_FEEDBACK__{name.upper()}": str(value) for name, value in settings.items()}
    environment = os.environ | {"VPD_API_KEY": KEY, "VPD_SERVICE__LOG_FORMAT": "json"} | own
    command = [sys.executable, "-c", SERVE]
    with (
        tempfile.NamedTemporaryFile(prefix="vpd-bench-", suffix=".log") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log) as process,
    ):
        try:
            yield f"http://127.0.0.1:{_port(process, Path(log.name))}"
        finally:
            process.terminate()


def item(name: str, case: Case, number: int) -> dict[str, Any]:
    """An item with the program of `case`, made a different one by `number`."""
    test = {"input": "7", "output": "7"}
    return {
        "trajectory_id": name,
        "group_id": "g",
        "policy_version": 0,
        "task": {
            "id": "t",
            "kind": "code.stdin",
            "messages": [{"role": "user", "content": "Print what you read."}],
            "reference": {"tests": [test], "time_limit_s": case.time_limit_s},
        },
        "response": {"text": f"```python\n{case.program}  # {number}\n```"},
    }


async def ask_all(url: str, cases: Sequence[Case], *, batch: int, clients: int) -> Outcome:
    """Have `clients` ask at once about all cases, `batch` in a request; they come back when they are told to."""
    outcome = Outcome()
    numbered = [item(f"t{number}", case, number) for number, case in enumerate(cases)]
    todo = iter(range(0, len(cases), batch))
    # Used again late by a client this busy, a connection would be closed by the service, as idle, at that very moment.
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)

    async def client(http: httpx.AsyncClient) -> None:
        for start in todo:
            await _ask(http, numbered[start : start + batch], cases[start : start + batch], outcome)

    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=ANSWER_TIMEOUT_S, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    outcome.wall_s = time.perf_counter() - started
    return outcome


async def _ask(http: httpx.AsyncClient, items: list[dict[str, Any]], cases: Sequence[Case], outcome: Outcome) -> None:
    body = {"run_id": "r", "deadline_s": ANSWER_TIMEOUT_S, "items": items}
    started = time.perf_counter()
    while (response := await http.post("/v1/feedback", json=body)).status_code == 429:
        outcome.refused += 1
        await asyncio.sleep(min(float(response.headers["Retry-After"]), MAX_WAIT_S))
    if response.status_code != 200:
        outcome.wrong.append(f"{response.status_code}: {response.text[:200]}")
        return
    outcome.seconds.setdefault(cases[0].words, []).append(time.perf_counter() - started)
    for case, result in zip(cases, response.json()["results"], strict=True):
        if result["reward"] != case.reward or not (result["text"] or "").startswith(case.words):
            outcome.wrong.append(f"{case.words}: {result['status']} {result['reward']} {result['text']!r}"[:300])


def describe(outcome: Outcome) -> str:
    """A few lines on an outcome, for a person."""
    lines = [f"{outcome.answered} answered in {outcome.wall_s:.1f} s, {outcome.refused} times 429 and asked again"]
    lines += [f"{words}: {_spread(seconds)}" for words, seconds in sorted(outcome.seconds.items())]
    wrong = Counter(text.partition(":")[0] for text in outcome.wrong)
    return "\n".join([*lines, f"false verdicts and failures: {dict(wrong) or 'none'}", *outcome.wrong[:5]])


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{len(ordered)} requests, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        events = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for event in events:
            if event.get("event") == "listening":
                return int(event["port"])
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start: {log.read_text()}")
