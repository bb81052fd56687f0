"""Critiques that are posted: once under a key, in batches; conditional puts; reading them back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import running

from services.human_feedback import app as application
from services.human_feedback.app import create_app
from tests.services.human_feedback.support import Clock, a_question, failed, settings

PLACE = "/v1/rollouts/r0/critiques/ann"
NEW = {"trajectory_id": "r0", "text": "Mind the sign."}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock) -> Iterator[httpx.Client]:
    app = create_app(settings(tmp_path / "h.sqlite3"), clock)
    with running(app) as url, httpx.Client(base_url=url) as found:
        yield found


def _post(client: httpx.Client, body: Any, key: str | None = None, path: str = "/v1/critiques") -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key} if key is not None else {})


def _texts(client: httpx.Client, **params: Any) -> list[str]:
    return [state["critique"]["text"] for state in client.get("/v1/critiques", params=params).json()["items"]]


def test_a_posted_critique_is_found_by_its_id_with_all_its_parts(client: httpx.Client) -> None:
    parts = {
        "text": "Mind the *sign*. \u0000é🙂",
        "verdict": "incorrect",
        "score": 0.25,
        "spans": [{"start": 0, "end": 1, "text": "here"}],
        "corrected_response": "x - 1",
        "author": "Ann",
    }
    created = _post(client, {"trajectory_id": "r0", **parts})
    assert created.status_code == 201 and created.json()["critique"] == parts
    read = client.get(f"/v1/critiques/{created.json()['critique_id']}")
    assert read.json() == created.json() and read.headers["ETag"] == f'"{read.json()["seq"]}"'
    assert client.get("/v1/critiques/none").status_code == 404


def test_without_a_key_each_post_is_a_critique_of_its_own_unless_it_names_itself(client: httpx.Client) -> None:
    assert len({_post(client, NEW).json()["critique_id"] for _ in range(2)}) == 2
    named = [_post(client, {**NEW, "identifier": "ann"}) for _ in range(2)]
    assert [response.status_code for response in named] == [201, 200]
    assert named[0].json() == named[1].json() == client.get(PLACE).json()


def test_a_repeated_key_gets_the_first_answer_and_stores_nothing(client: httpx.Client) -> None:
    first = _post(client, NEW, "k1")
    client.post(f"/v1/rollouts/r0/critiques/{first.json()['identifier']}/use", json={"status": "used", "step": 1})
    again = _post(client, NEW, "k1")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert len(_texts(client)) == 1
    assert _post(client, NEW, "k2").json()["critique_id"] != first.json()["critique_id"]


def test_a_key_is_forgotten_after_a_day(client: httpx.Client, clock: Clock) -> None:
    first = _post(client, NEW, "k1").json()
    clock.now += 86_000
    assert _post(client, NEW, "k1").json() == first
    clock.now += 1_000
    assert _post(client, NEW, "k1").json()["critique_id"] != first["critique_id"]


def test_a_key_with_another_body_is_refused(client: httpx.Client) -> None:
    _post(client, NEW, "k1")
    other = _post(client, {**NEW, "text": "Another."}, "k1")
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    assert _post(client, {"items": [NEW]}, "k1", "/v1/critiques/batch").status_code == 200, "another route's keys"
    assert _texts(client) == ["Mind the sign."] * 2


def test_a_refused_request_leaves_its_key_free(client: httpx.Client) -> None:
    assert _post(client, {**NEW, "text": ""}, "k1").status_code == 422
    assert _post(client, NEW, "k1").status_code == 201


def test_a_key_that_is_still_being_answered_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases: list[Any] = []
    made = application.Database
    monkeypatch.setattr(application, "Database", lambda place: databases.append(made(place)) or databases[0])
    app = create_app(settings(tmp_path / "h.sqlite3"))
    go = threading.Event()

    async def post() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://h") as own:
            headers = {"Idempotency-Key": "k1"}
            busy = asyncio.create_task(databases[0].run(lambda _: go.wait()))
            posts = [asyncio.create_task(own.post("/v1/critiques", json=NEW, headers=headers)) for _ in range(2)]
            (refused,), (answered,) = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            go.set()
            statuses = [(await refused).status_code, (await answered).status_code]
            await busy
            return statuses

    assert asyncio.run(post()) == [409, 201]


def test_a_batch_says_of_each_entry_what_became_of_it(client: httpx.Client) -> None:
    entries = [NEW, {"text": "Of what?"}, {**NEW, "text": " "}, {**NEW, "score": 2}, {**NEW, "identifier": "ann"}]
    results = _post(client, {"items": entries}, path="/v1/critiques/batch").json()["results"]
    assert [result["field"] for result in results] == [None, "trajectory_id", "text", "score", None]
    assert [result["critique"] is not None for result in results] == [True, False, False, False, True]
    assert len(_texts(client)) == 2


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_of_none_or_more_than_a_hundred_is_refused(client: httpx.Client, count: int) -> None:
    refused = _post(client, {"items": [NEW] * count}, path="/v1/critiques/batch")
    assert (refused.status_code, refused.json()["field"]) == (422, "items")


def test_a_change_under_an_outdated_tag_is_refused(client: httpx.Client) -> None:
    tag = client.put(PLACE, json={"text": "one"}).headers["ETag"]
    changed = client.put(PLACE, json={"text": "two"}, headers={"If-Match": f'"77", {tag}'})
    assert changed.status_code == 200 and changed.headers["ETag"] != tag
    lost = client.put(PLACE, json={"text": "three"}, headers={"If-Match": tag})
    assert (lost.status_code, lost.json()["field"]) == (412, "If-Match")
    assert client.delete(PLACE, headers={"If-Match": tag}).status_code == 412
    assert client.put(PLACE, json={"text": "three"}, headers={"If-Match": "*"}).status_code == 200
    assert client.get(PLACE).json()["critique"]["text"] == "three"


def test_what_became_of_a_critique_leaves_its_tag(client: httpx.Client) -> None:
    tag = client.put(PLACE, json={"text": "one"}).headers["ETag"]
    client.post(f"{PLACE}/use", json={"status": "used", "step": 4, "policy_version": 5})
    read = client.get(PLACE)
    assert (read.headers["ETag"], read.json()["status"], read.json()["policy_version"]) == (tag, "used", 5)


def test_a_critique_can_be_created_only_where_there_is_none(client: httpx.Client) -> None:
    only_new = {"If-None-Match": "*"}
    assert client.put(PLACE, json={"text": "one"}, headers={"If-Match": "*"}).status_code == 412
    assert client.put(PLACE, json={"text": "one"}, headers=only_new).status_code == 201
    assert client.put(PLACE, json={"text": "two"}, headers=only_new).status_code == 412
    assert client.put(PLACE, json={"text": "two"}, headers={"If-None-Match": '"1"'}).status_code == 422


def test_critiques_are_paged_in_the_order_of_their_last_writes_and_filtered(client: httpx.Client) -> None:
    for number in range(5):
        client.put(f"/v1/rollouts/a{number % 2}/critiques/w{number}", json={"text": str(number)})
    client.put("/v1/rollouts/a0/critiques/w0", json={"text": "changed"})
    client.post("/v1/rollouts/a1/critiques/w1/use", json={"status": "stale", "step": 2, "reason": "late"})
    pages, cursor = [], None
    while not pages or cursor is not None:
        page = client.get("/v1/critiques", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        pages.append([state["critique"]["text"] for state in page["items"]])
        cursor = page["next_cursor"]
    assert pages == [["1", "2"], ["3", "4"], ["changed"]]
    assert _texts(client, trajectory_id="a0") == ["2", "4", "changed"]
    assert _texts(client, status="stale") == ["1"] and _texts(client, run_id="a1") == ["1", "3"]


def test_remarks_or_a_corrected_response_are_words_enough(client: httpx.Client) -> None:
    remark = {"start": 0, "end": 1, "text": "this"}
    for number, body in enumerate(({"spans": [remark]}, {"corrected_response": "x"})):
        assert client.put(f"/v1/rollouts/r{number}/critiques/ann", json=body).status_code == 201
    for body in ({"verdict": "correct"}, {"spans": [{**remark, "text": " "}]}, {"corrected_response": " "}):
        assert client.put(PLACE, json=body).json()["field"] == "text"
    assert client.put(PLACE, json={"spans": [{**remark, "start": 2}]}).json()["field"] == "spans"


def test_what_the_teacher_reads_has_the_remarks_and_the_corrected_response(client: httpx.Client) -> None:
    body = {"text": "Wrong.", "spans": [{"start": 0, "end": 1, "text": "this"}, {"start": 5, "end": 9, "text": "gone"}]}
    client.put(PLACE, json={**body, "corrected_response": "z"})
    (result,) = client.post("/v1/feedback", json=a_question(failed("r0"))).json()["results"]
    assert result["text"] == "Wrong.\n\nOn `x`: this\n\ngone\n\nA corrected response:\nz"
    assert result["spans"] == body["spans"][:1], "a span beyond the response would make the answer wrong"
