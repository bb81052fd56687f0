"""Two hundred reviewers at once: no rollout twice, nothing lost; and what was acknowledged survives SIGKILL."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.human_feedback.app import create_app
from tests.services.human_feedback.support import a_question, failed, process, settings

REVIEWERS, TASKS = 200, 300
LIMITS = httpx.Limits(max_connections=REVIEWERS, max_keepalive_connections=REVIEWERS, keepalive_expiry=1.0)
"""An idle connection must end here before the service closes it under a request."""


async def _review(http: httpx.AsyncClient, submitted: Callable[[str], Any]) -> list[str]:
    """Everybody claims, drafts and submits until nothing is left; the rollouts in the order they were given out."""
    given: list[str] = []

    async def person(name: str) -> None:
        while (claimed := await http.post("/v1/review/claims", json={"reviewer": name})).status_code == 201:
            task = claimed.json()
            trajectory = task["item"]["trajectory_id"]
            given.append(trajectory)
            draft = await http.put(f"/v1/review/drafts/{name}/{trajectory}", json={"text": "Mi"})
            place = f"/v1/review/claims/{task['claim']['claim_id']}/submit"
            done = await http.post(place, json={"text": trajectory})
            assert (draft.status_code, done.status_code) == (200, 201)
            submitted(trajectory)

    ended = await asyncio.gather(*(person(f"w{number}") for number in range(REVIEWERS)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error
    return given


async def _ask(http: httpx.AsyncClient, count: int) -> None:
    items = [failed(f"r{number}") for number in range(count)]
    (await http.post("/v1/feedback", json=a_question(*items))).raise_for_status()


async def _critiques(http: httpx.AsyncClient) -> list[str]:
    page = await http.get("/v1/critiques", params={"limit": 500})
    return [state["critique"]["text"] for state in page.json()["items"]]


def test_two_hundred_reviewers_at_once_share_no_rollout_and_lose_nothing(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path / "h.sqlite3"))

    async def run() -> tuple[list[str], list[str]]:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://h")
        async with app.router.lifespan_context(app), http:
            await _ask(http, TASKS)
            return await _review(http, lambda _: None), await _critiques(http)

    given, written = asyncio.run(run())
    assert max(Counter(given).values()) == 1 and len(given) == TASKS
    assert sorted(written) == sorted(given)


def test_a_kill_in_the_middle_loses_no_acknowledged_critique_and_gives_no_rollout_twice(tmp_path: Path) -> None:
    database, acknowledged, enough = str(tmp_path / "h.sqlite3"), [], threading.Event()

    def submitted(trajectory: str) -> None:
        acknowledged.append(trajectory)
        if len(acknowledged) >= 60:
            enough.set()

    async def until_killed(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, limits=LIMITS, timeout=60) as http:
            await _ask(http, TASKS)
            with pytest.raises(httpx.TransportError):
                await _review(http, submitted)

    async def afterwards(url: str) -> tuple[list[str], list[str]]:
        async with httpx.AsyncClient(base_url=url, limits=LIMITS, timeout=60) as http:
            before = await _critiques(http)
            given = await _review(http, lambda _: None)
            return before, given

    with process(database) as (served, url):
        killer = threading.Thread(target=lambda: enough.wait(60) and served.kill())
        killer.start()
        asyncio.run(until_killed(url))
        killer.join()
    with process(database) as (_, url):
        before, given = asyncio.run(afterwards(url))
    assert len(acknowledged) >= 60 and set(acknowledged) <= set(before)
    assert max(Counter(before).values()) == 1
    assert not set(given) & set(before) and max(Counter(given).values(), default=1) == 1
