"""Questions that wait for people: a job that is done when they have written, or at the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from feedback_builders import a_source, an_item
from serving import running

from services.human_feedback.app import create_app
from shared.feedback_client import FeedbackClient
from shared.protocol import Feedback
from tests.services.human_feedback.support import Clock, a_question, claim, failed, settings

WORDS = {"text": "Mind the sign."}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock) -> Iterator[httpx.Client]:
    app = create_app(settings(tmp_path / "h.sqlite3", review="failed", wait_s=60.0), clock)
    with running(app) as url, httpx.Client(base_url=url) as found:
        yield found


def _ask(client: httpx.Client, *items: Any, deadline_s: float = 30.0) -> httpx.Response:
    return client.post("/v1/feedback", json=a_question(*items, deadline_s=deadline_s))


def _job(client: httpx.Client, *items: Any, deadline_s: float = 30.0) -> str:
    asked = _ask(client, *items, deadline_s=deadline_s)
    assert asked.status_code == 202 and asked.json()["status"] == "running"
    return f"/v1/jobs/{asked.json()['job_id']}"


def test_a_job_is_done_when_people_have_written_about_all_that_they_are_shown(client: httpx.Client) -> None:
    passed = an_item(trajectory_id="r2", reward=1.0, success=True)
    job = _job(client, failed("r0"), failed("r1"), passed)
    client.put("/v1/rollouts/r0/critiques/ann", json=WORDS)
    assert client.get(job).json() == {"job_id": job.rpartition("/")[2], "status": "running", "results": None}
    task = claim(client, "bob")
    assert task is not None and task["item"]["trajectory_id"] == "r1"
    client.post(f"/v1/review/claims/{task['claim']['claim_id']}/submit", json=WORDS)
    done = client.get(job).json()
    assert done["status"] == "done"
    assert [(r["trajectory_id"], r["status"], r["text"]) for r in done["results"]] == [
        ("r0", "ok", "Mind the sign."),
        ("r1", "ok", "Mind the sign."),
        ("r2", "abstain", None),
    ]


def test_at_its_deadline_a_job_says_what_is_there_early_enough_for_its_caller(
    client: httpx.Client, clock: Clock
) -> None:
    job = _job(client, failed("r0"), failed("r1"))
    client.put("/v1/rollouts/r1/critiques/ann", json=WORDS)
    clock.now += 27.4
    assert client.get(job).json()["status"] == "running"
    clock.now += 0.1
    assert [r["status"] for r in client.get(job).json()["results"]] == ["abstain", "ok"]


def test_the_setting_bounds_the_wait_too(client: httpx.Client, clock: Clock) -> None:
    job = _job(client, failed("r0"), deadline_s=3600)
    clock.now += 60
    assert client.get(job).json()["status"] == "done"


def test_what_nobody_is_shown_is_answered_at_once(client: httpx.Client) -> None:
    assert _ask(client, an_item(trajectory_id="r0", success=True)).status_code == 200
    client.put("/v1/rollouts/r1/critiques/ann", json=WORDS)
    assert _ask(client, failed("r1")).json()["results"][0]["status"] == "ok"


def test_without_the_setting_every_question_is_answered_at_once(tmp_path: Path) -> None:
    with running(create_app(settings(tmp_path / "h.sqlite3"))) as url, httpx.Client(base_url=url) as client:
        assert _ask(client, failed("r0")).json()["results"][0]["status"] == "abstain"


def test_a_job_that_is_given_up_is_forgotten_and_so_is_an_old_one(client: httpx.Client, clock: Clock) -> None:
    job, old = _job(client, failed("r0")), _job(client, failed("r1"))
    assert [client.delete(job).status_code, client.get(job).status_code, client.delete(job).status_code] == [
        204,
        404,
        404,
    ]
    clock.now += 4000
    _job(client, failed("r2"))
    assert client.get(old).status_code == 404


def test_the_collectors_client_waits_for_what_a_person_writes(client: httpx.Client) -> None:
    async def ask() -> list[Feedback]:
        source = FeedbackClient("human", a_source(str(client.base_url), timeout_s=30), api_key=None)
        asked = asyncio.create_task(source.ask("run", [failed("r0")]))
        task = None
        while task is None:
            task = await asyncio.to_thread(claim, client, "ann")
        await asyncio.to_thread(client.post, f"/v1/review/claims/{task['claim']['claim_id']}/submit", json=WORDS)
        try:
            return await asked
        finally:
            await source.aclose()

    (said,) = asyncio.run(ask())
    assert (said.status, said.text) == ("ok", "Mind the sign.")
