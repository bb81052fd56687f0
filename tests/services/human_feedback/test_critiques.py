"""Human critique: durable, joined by id, and its writer can read what became of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from feedback_builders import a_source, an_item
from serving import running

from services.human_feedback.app import create_app
from shared.errors import ServiceUnavailable
from shared.feedback_client import FeedbackClient
from shared.human_client import HumanClient
from shared.protocol import Feedback
from tests.services.human_feedback.support import SERVER, settings

PLACE = "/v1/rollouts/run-s000001-g000-r00/critiques/ann"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with running(create_app(settings(tmp_path / "deep" / "h.sqlite3"))) as url, httpx.Client(base_url=url) as found:
        yield found


def _put(client: httpx.Client, trajectory: str, identifier: str = "ann", text: str = "Use plus.") -> dict[str, Any]:
    response = client.put(f"/v1/rollouts/{trajectory}/critiques/{identifier}", json={"text": text})
    assert response.status_code in (200, 201), response.text
    found: dict[str, Any] = response.json()
    return found


def _ask(client: httpx.Client, *names: str, run_id: str = "run") -> list[Feedback]:
    async def ask() -> list[Feedback]:
        source = FeedbackClient("human", a_source(str(client.base_url)), api_key=None)
        try:
            return await source.ask(run_id, [an_item(trajectory_id=name) for name in names])
        finally:
            await source.aclose()

    return asyncio.run(ask())


def test_a_critique_is_created_changed_read_and_deleted(client: httpx.Client) -> None:
    created = client.put(PLACE, json={"text": "Use plus.", "verdict": "incorrect", "author": "Ann"})
    assert (created.status_code, created.json()["status"]) == (201, "queued")
    changed = client.put(PLACE, json={"text": "Use minus."})
    assert changed.status_code == 200 and changed.json()["seq"] > created.json()["seq"]
    assert client.get(PLACE).json() == changed.json()
    assert client.delete(PLACE).status_code == 204
    assert client.get(PLACE).status_code == client.delete(PLACE).status_code == 404


def test_the_same_put_again_changes_nothing_but_an_edit_queues_a_used_critique_again(client: httpx.Client) -> None:
    first = client.put(PLACE, json={"text": "Use plus."}).json()
    used = client.post(f"{PLACE}/use", json={"status": "used", "step": 4}).json()
    assert (used["status"], used["step"], used["seq"]) == ("used", 4, first["seq"])
    assert client.put(PLACE, json={"text": "Use plus."}).json() == used
    edited = client.put(PLACE, json={"text": "Use minus."}).json()
    assert (edited["status"], edited["step"]) == ("queued", None)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (PLACE, {"text": ""}, "text"),
        (PLACE, {"text": " \n"}, "text"),
        (PLACE, {"text": "x" * 20_001}, "text"),
        (PLACE, {"text": "x", "mood": "bad"}, "mood"),
        (PLACE, {}, "text"),
        ("/v1/rollouts/-bad/critiques/ann", {"text": "x"}, "trajectory_id"),
        ("/v1/rollouts/r0/critiques/a%20b", {"text": "x"}, "identifier"),
    ],
)
def test_a_bad_critique_is_refused_naming_the_field(client: httpx.Client, path: str, body: Any, field: str) -> None:
    response = client.put(path, json=body)
    assert response.status_code == 422 and response.json()["field"] == field


def test_a_critique_joins_its_rollout_whether_it_comes_before_or_after(client: httpx.Client) -> None:
    _put(client, "r0", "zoe", "Last.")
    _put(client, "r0", "ann", "First.")
    before = client.get("/v1/rollouts/r0").json()
    assert before["item"] is None and len(before["critiques"]) == 2
    early, none = _ask(client, "r0", "r1")
    assert (early.status, early.text, early.source.kind, early.reward) == ("ok", "First.\n\nLast.", "human", None)
    assert none.status == "abstain"
    _put(client, "r1")
    after = client.get("/v1/rollouts/r1").json()
    assert after["run_id"] == "run" and after["item"]["response"]["text"] == "x"
    assert [c["status"] for c in after["critiques"]] == ["queued"], "only the learner says that it was used"
    assert client.get("/v1/rollouts/r2").status_code == 404


def test_rollouts_are_paged_newest_first(client: httpx.Client) -> None:
    _ask(client, *[f"a{i}" for i in range(5)], run_id="a")
    _ask(client, "b0", run_id="b")
    _ask(client, "a0", run_id="a")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"run_id": "a", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/v1/rollouts", params=params).json()
        seen += [record["item"]["trajectory_id"] for record in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["a4", "a3", "a2", "a1", "a0"]
    assert client.get("/v1/rollouts").json()["items"][0]["trajectory_id"] == "b0"
    assert client.get("/v1/rollouts", params={"cursor": "x"}).json()["field"] == "cursor"


def test_the_learner_reads_its_runs_critiques_in_the_order_they_were_written(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.human_client.PAGE", 2)
    for number in (3, 1, 2, 0, 4):
        _put(client, f"run_a-r{number}")
    _put(client, "runXa-r0")
    _put(client, "run_a-r1", text="Changed.")

    async def read() -> tuple[list[str], list[str], list[Any]]:
        learner = HumanClient(str(client.base_url), None)
        states = await learner.critiques(0, "run_a")
        newer = await learner.critiques(states[2].seq, "run_a")
        told = [await learner.report_use(states[0], used=True, step=7)]
        await asyncio.to_thread(_put, client, states[1].trajectory_id, text="Changed meanwhile.")
        told.append(await learner.report_use(states[1], used=True, step=7))
        await asyncio.to_thread(client.delete, f"/v1/rollouts/{states[2].trajectory_id}/critiques/ann")
        told.append(await learner.report_use(states[2], used=False, step=7, reason="left the buffer"))
        await learner.aclose()
        return [s.trajectory_id for s in states], [s.trajectory_id for s in newer], told

    states, newer, (used, changed, deleted) = asyncio.run(read())
    assert states == [f"run_a-r{n}" for n in (3, 2, 0, 4, 1)] and newer == ["run_a-r4", "run_a-r1"]
    assert (used.status, used.step) == ("used", 7) and changed is None and deleted is None
    assert client.get("/v1/rollouts/run_a-r2/critiques/ann").json()["status"] == "queued"


def test_a_service_that_is_away_is_a_sentence_for_the_learner() -> None:
    with pytest.raises(ServiceUnavailable, match=r"human-feedback service at http://127\.0\.0\.1:1 cannot be reached"):
        asyncio.run(HumanClient("http://127.0.0.1:1", None).critiques(0, "run"))


def test_writers_at_the_same_time_lose_nothing(client: httpx.Client) -> None:
    async def write() -> list[int]:
        async with httpx.AsyncClient(base_url=client.base_url) as writer:
            places = [f"/v1/rollouts/r{i % 5}/critiques/w{i}" for i in range(40)]
            answers = await asyncio.gather(*(writer.put(place, json={"text": place}) for place in places))
        return [answer.json()["seq"] for answer in answers]

    assert sorted(asyncio.run(write())) == list(range(1, 41))
    assert len(client.get("/v1/critiques").json()["items"]) == 40


def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "not_a_database"
    path.write_text("hello " * 1000)
    ended = subprocess.run([sys.executable, "-c", SERVER, str(path)], capture_output=True, text=True, timeout=60)
    assert f"InfrastructureError: The critique store {path} failed: file is not a database." in ended.stderr
