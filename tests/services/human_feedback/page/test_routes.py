from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feedback_builders import an_item
from starlette.testclient import TestClient

from services.human_feedback.app import create_app
from shared.protocol import FeedbackItem, Sibling
from shared.settings import HumanFeedbackSettings, Settings

REVIEWER = {"Authorization": "Bearer review"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    own = HumanFeedbackSettings(database=str(tmp_path / "store"), review="all", review_key="review", read_key="read")
    with TestClient(create_app(Settings(api_key="admin", human_feedback=own))) as client:
        yield client


def claim(client: TestClient, item: FeedbackItem) -> str:
    """The id of the claim of a rollout that was asked about."""
    body = {"run_id": "run", "items": [item.model_dump(mode="json")]}
    client.post("/v1/feedback", json=body, headers={"Authorization": "Bearer admin"}).raise_for_status()
    response = client.post("/v1/review/claims", json={"reviewer": "ada"}, headers=REVIEWER)
    return str(response.json()["claim"]["claim_id"])


def test_the_page_is_open_and_its_routes_need_a_key_that_reviews(client: TestClient) -> None:
    assert client.get("/review/").status_code == 200
    for path in ("guidelines", "critiques/ada", "tasks/l-1/view", "tasks/l-1/siblings/0"):
        assert client.get(f"/v1/review/{path}").status_code == 401
        assert client.get(f"/v1/review/{path}", headers={"Authorization": "Bearer read"}).status_code == 403


def test_a_task_s_texts_come_as_html(client: TestClient) -> None:
    siblings = [Sibling(trajectory_id="s", text="def g(): 1")]
    claim_id = claim(client, an_item(text="def f(): 1", kind="code.functional", siblings=siblings))
    place = f"/v1/review/tasks/{claim_id}"
    assert '<span class="k">def </span>' in client.get(f"{place}/view", headers=REVIEWER).json()["html"]
    assert "<mark>g</mark>" in client.get(f"{place}/siblings/0", headers=REVIEWER).json()["html"]
    for path in (f"{place}/siblings/1", f"{place}/siblings/-1", "/v1/review/tasks/l-none/view"):
        assert client.get(path, headers=REVIEWER).status_code == 404


def test_a_preview_has_the_words_of_the_teacher_and_stores_nothing(client: TestClient) -> None:
    claim_id = claim(client, an_item(text="x = 1"))
    critique = {"text": "**No.**", "spans": [{"start": 4, "end": 5, "text": "Two."}], "corrected_response": "x = 2"}
    answer = client.post(f"/v1/review/tasks/{claim_id}/preview", json=critique, headers=REVIEWER).json()
    assert answer["html"] == "<p><strong>No.</strong></p>\n"
    assert answer["fix_html"] == "<del>- x = <mark>1</mark></del><ins>+ x = <mark>2</mark></ins>"
    assert answer["teacher_reads"] == "**No.**\n\nOn `1`: Two.\n\nA corrected response:\nx = 2"
    assert client.get("/v1/critiques", headers=REVIEWER).json()["items"] == []


def test_a_reviewer_s_critiques_come_newest_first_and_nobody_else_s(client: TestClient) -> None:
    def put(trajectory_id: str, identifier: str) -> httpx.Response:
        place = f"/v1/rollouts/{trajectory_id}/critiques/{identifier}"
        return client.put(place, json={"text": "No."}, headers={"Authorization": "Bearer admin"})

    for trajectory_id, identifier in (("r1", "ada"), ("r2", "grace"), ("r3", "ada")):
        assert put(trajectory_id, identifier).status_code == 201
    mine = client.get("/v1/review/critiques/ada", headers=REVIEWER).json()["items"]
    assert [state["trajectory_id"] for state in mine] == ["r3", "r1"]
    assert len(client.get("/v1/review/critiques/ada?limit=1", headers=REVIEWER).json()["items"]) == 1
