"""Two hundred reviewers at one human-feedback service: how long its answers take.

    .venv/bin/python -m bench.human [REVIEWERS] [THINK_S] [DATABASE]        # default: 200, 1 second, an SQLite file

The service is a process of its own. Each reviewer claims, saves a draft, renews the lease and submits, until nothing is
left, and thinks for THINK_S seconds on average between two requests; 0 is one after the other without a pause.
Prints requests a second, the percentiles of each request's answer time, and the CPU time that the service used. Exits
with 1 if a rollout was given to two people, or a critique is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
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
LOREM = "The loop ends one too early: `range(n)` leaves out n itself. " * 5
SERVER = """
import sys
from services.human_feedback.app import create_app
from shared.service import serve
from shared.settings import HumanFeedbackSettings, Settings
settings = Settings(human_feedback=HumanFeedbackSettings(database=sys.argv[1], review="all"))
serve(create_app(settings), settings, 0)
"""


async def review(url: str, reviewers: int, think_s: float) -> tuple[dict[str, list[float]], list[str]]:
    """Everybody at once: answer times in seconds by request, and the rollouts in the order they were given out."""
    took: dict[str, list[float]] = defaultdict(list)
    given: list[str] = []
    # An idle connection must end here before the service closes it under a request.
    limits = httpx.Limits(max_connections=reviewers, max_keepalive_connections=reviewers, keepalive_expiry=1.0)

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def call(name: str, method: str, path: str, body: Any = None) -> httpx.Response:
            await asyncio.sleep(random.expovariate(1 / think_s) if think_s else 0)
            began = time.perf_counter()
            response = await http.request(method, path, json=body)
            took[name].append(time.perf_counter() - began)
            assert response.is_success, response.text
            return response

        async def person(name: str) -> None:
            while (claimed := await call("claim", "POST", "/v1/review/claims", {"reviewer": name})).status_code == 201:
                task = claimed.json()
                trajectory, place = task["item"]["trajectory_id"], f"/v1/review/claims/{task['claim']['claim_id']}"
                given.append(trajectory)
                await call("draft", "PUT", f"/v1/review/drafts/{name}/{trajectory}", {"text": LOREM[:50]})
                await call("heartbeat", "POST", f"{place}/heartbeat")
                await call("submit", "POST", f"{place}/submit", {"text": f"{LOREM} {trajectory}"})

        await asyncio.gather(*(person(f"reviewer-{number}") for number in range(reviewers)))
    return took, given


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
        url = f"http://127.0.0.1:{json.loads(process.stderr.readline())['port']}"
        log = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            ask(url, reviewers * TASKS_EACH)
            began = time.perf_counter()
            took, given = asyncio.run(review(url, reviewers, think_s))
            seconds, critiques = time.perf_counter() - began, written(url)
        finally:
            process.terminate()
            process.wait()
            log.wait()
    _print(took, seconds)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    requests = sum(len(times) for times in took.values())
    cpu_ms = 1000 * (used.ru_utime + used.ru_stime) / requests
    print(f"the service used {cpu_ms:.2f} ms of CPU a request, its start included")
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
