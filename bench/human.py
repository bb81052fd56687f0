"""Two hundred reviewers at one human-feedback service: how long its answers take.

    .venv/bin/python -m bench.human [REVIEWERS] [THINK_S] [DATABASE]        # default: 200, 1 second, an SQLite file

The service is a process of its own. Each reviewer claims, saves a draft, renews the lease and submits, until nothing is
left, and thinks for THINK_S seconds on average before each request; 0 is one after the other without a pause. The
requests are written by hand, since a client library would take more of the processor than the service does.
Prints requests a second, the percentiles of each request's answer time, and the CPU time that service and client used.
Exits with 1 if a rollout was given to two people, or a critique is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx

from shared.tether import tethered

TASKS_EACH = 4
IDLE_S = 2.0
LOREM = "The loop ends one too early: `range(n)` leaves out n itself. " * 5
SERVER = """
import sys
from services.human_feedback.app import create_app
from shared.service import serve
from shared.settings import HumanFeedbackSettings, Settings
settings = Settings(human_feedback=HumanFeedbackSettings(database=sys.argv[1], review="all"))
serve(create_app(settings), settings, 0)
"""


class Reviewer:
    """One person's connection, opened anew where it was idle for long: the service closes those."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.used_at = 0.0
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self.writer is None or time.monotonic() - self.used_at > IDLE_S:
            await self.close()
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        content = json.dumps(body).encode() if body is not None else b""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        )
        self.writer.write(f"{head}\r\n\r\n".encode() + content)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        found = await self.reader.readexactly(int(length[1]) if length else 0)
        self.used_at = time.monotonic()
        return int(answer[9:12]), found

    async def close(self) -> None:
        """Hang up."""
        if self.writer is not None:
            self.writer.close()


async def review(port: int, reviewers: int, think_s: float) -> tuple[dict[str, list[float]], list[str]]:
    """Everybody at once: answer times in seconds by request, and the rollouts in the order they were given out."""
    took: dict[str, list[float]] = defaultdict(list)
    given: list[str] = []

    async def person(name: str) -> None:
        http = Reviewer(port)

        async def call(kind: str, method: str, path: str, body: Any = None) -> bytes | None:
            await asyncio.sleep(random.expovariate(1 / think_s) if think_s else 0)
            began = time.perf_counter()
            status, answer = await http.request(method, path, body)
            took[kind].append(time.perf_counter() - began)
            assert 200 <= status < 300, answer
            return answer if status != 204 else None

        while (claimed := await call("claim", "POST", "/v1/review/claims", {"reviewer": name})) is not None:
            task = json.loads(claimed)
            trajectory, place = task["item"]["trajectory_id"], f"/v1/review/claims/{task['claim']['claim_id']}"
            given.append(trajectory)
            await call("draft", "PUT", f"/v1/review/drafts/{name}/{trajectory}", {"text": LOREM[:50]})
            await call("heartbeat", "POST", f"{place}/heartbeat")
            await call("submit", "POST", f"{place}/submit", {"text": f"{LOREM} {trajectory}"})
        await http.close()

    await asyncio.gather(*(person(f"reviewer-{number}") for number in range(reviewers)))
    return took, given


def cpu_s(url: str) -> float:
    """CPU seconds that the service has used."""
    (found,) = re.findall(r"^process_cpu_seconds_total ([\d.e+-]+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(found)


def ask(url: str, count: int) -> None:
    """Make the service know `count` rollouts."""
    task = {"id": "t", "kind": "any", "messages": [{"role": "user", "content": LOREM}]}
    made = {"group_id": "g", "policy_version": 0, "task": task, "response": {"text": LOREM}, "success": False}
    for start in range(0, count, 200):
        items = [{**made, "trajectory_id": f"r{number}"} for number in range(start, min(start + 200, count))]
        httpx.post(f"{url}/v1/feedback", json={"run_id": "run", "items": items}, timeout=60).raise_for_status()


def written(url: str) -> list[str]:
    """The trajectories of all critiques."""
    found: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = httpx.get(f"{url}/v1/critiques", params={"cursor": cursor, "limit": 500}, timeout=60).json()
        found += [state["trajectory_id"] for state in page["items"]]
        cursor = page["next_cursor"]
    return found


def main(reviewers: int, think_s: float, place: str | None) -> int:
    """1 if a rollout was given to two people, or a critique is missing."""
    with tempfile.TemporaryDirectory(prefix="vpd-human-") as folder:
        command = tethered([sys.executable, "-c", SERVER, place or str(Path(folder) / "human.sqlite3")])
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert process.stderr is not None
        port = json.loads(process.stderr.readline())["port"]
        url = f"http://127.0.0.1:{port}"
        log = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            ask(url, reviewers * TASKS_EACH)
            began, service_s, client_s = time.perf_counter(), cpu_s(url), time.process_time()
            took, given = asyncio.run(review(port, reviewers, think_s))
            seconds = time.perf_counter() - began
            service_s, client_s = cpu_s(url) - service_s, time.process_time() - client_s
            critiques = written(url)
        finally:
            process.terminate()
            process.wait()
            log.wait()
    _print(took, seconds)
    requests = sum(len(times) for times in took.values())
    print(f"CPU a request: service {1000 * service_s / requests:.2f} ms, client {1000 * client_s / requests:.2f} ms")
    twice = [name for name, times in Counter(given).items() if times > 1]
    lost = set(given) - set(critiques)
    print(f"{len(given)} rollouts given out, {len(twice)} of them twice; {len(critiques)} critiques, {len(lost)} lost")
    return 1 if twice or lost or len(critiques) != reviewers * TASKS_EACH else 0


def _print(took: dict[str, list[float]], seconds: float) -> None:
    total = sum(len(times) for times in took.values())
    print(f"{total} requests in {seconds:.1f} s: {total / seconds:.0f} a second")
    print(f"{'request':<10} {'count':>6} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for name, times in {**took, "all": [one for each in took.values() for one in each]}.items():
        ordered = sorted(times)
        shown = [1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.95, 0.99, 1)]
        print(f"{name:<10} {len(ordered):>6} " + " ".join(f"{value:>8.1f}" for value in shown))


if __name__ == "__main__":
    given_arguments = sys.argv[1:] + [""] * 3
    sys.exit(main(int(given_arguments[0] or 200), float(given_arguments[1] or 1), given_arguments[2] or None))
