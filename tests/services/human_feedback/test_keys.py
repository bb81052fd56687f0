"""Scoped keys: who may do what, made at the first start and shown once."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from serving import running

from services.human_feedback.app import create_app
from tests.services.human_feedback.support import a_question, failed, settings

OWN = {"read_key": "reader", "review_key": "reviewer", "ingest_key": "writer"}
WORDS = {"text": "x"}
CALLS: list[tuple[str, str, Any, set[str]]] = [
    ("GET", "/v1/critiques", None, {"reader", "reviewer", "writer", "stack"}),
    ("GET", "/v1/rollouts", None, {"reader", "reviewer", "writer", "stack"}),
    ("PUT", "/v1/rollouts/r0/critiques/ann", WORDS, {"writer", "stack"}),
    ("POST", "/v1/critiques", {"trajectory_id": "r0", **WORDS}, {"writer", "stack"}),
    ("POST", "/v1/rollouts/r0/critiques/ann/use", {"status": "used", "step": 0}, {"writer", "stack"}),
    ("POST", "/v1/feedback", a_question(failed("r0")), {"writer", "stack"}),
    ("POST", "/v1/review/claims", {"reviewer": "ann"}, {"reviewer", "stack"}),
    ("PUT", "/v1/review/drafts/ann/r0", WORDS, {"reviewer", "stack"}),
    ("DELETE", "/v1/rollouts/r0/critiques/ann", None, {"stack"}),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("keys") / "h.sqlite3"
    with running(create_app(settings(path, key="stack", **OWN))) as url, httpx.Client(base_url=url) as found:
        yield found


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path", "body", "allowed"), CALLS)
def test_each_key_opens_what_its_scope_names_and_no_more(
    client: httpx.Client, method: str, path: str, body: Any, allowed: set[str]
) -> None:
    for key in ("reader", "reviewer", "writer", "stack"):
        answer = client.request(method, path, json=body, headers=_bearer(key))
        assert (answer.status_code != 403) == (key in allowed), (key, answer.text)
        assert answer.status_code != 401
    for wrong in (
        {},
        _bearer("readers"),
        {"Authorization": "Bearer"},
        {"Authorization": "Basic stack"},
        {"Authorization": "stack"},
    ):
        assert client.request(method, path, json=body, headers=wrong).status_code == 401


def test_the_reading_key_writes_by_no_route_and_reviews_none(client: httpx.Client) -> None:
    """A route that names no scope would be open to every key."""
    paths = client.get("/openapi.json").json()["paths"]
    opened = set()
    for path, operations in paths.items():
        for method in operations:
            answer = client.request(method, re.sub(r"{\w+}", "x0", path), json={}, headers=_bearer("reader"))
            opened |= {(method, path)} if answer.status_code != 403 else set()
    assert {method for method, _ in opened} == {"get"}
    assert not [path for _, path in opened if path.startswith(("/v1/review", "/v1/jobs"))] and len(opened) > 8


def _started(path: Path, **own: Any) -> dict[str, str]:
    """The keys that a start printed, by scope."""
    with structlog.testing.capture_logs() as logs, running(create_app(settings(path, key="stack", **own))):
        pass
    return {entry["scope"]: entry["key"] for entry in logs if "key" in entry}


def test_missing_keys_are_made_at_the_first_start_shown_once_and_stored_as_digests(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    made = _started(path, ingest_key="writer")
    assert set(made) == {"read", "review"} and min(len(key) for key in made.values()) >= 32
    assert _started(path).keys() == {"ingest"}
    assert _started(path) == {}
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(key.encode() in stored for key in made.values())
    with running(create_app(settings(path, key="stack"))) as url:
        for scope, status in (("read", 403), ("review", 204)):
            answer = httpx.post(f"{url}/v1/review/claims", json={"reviewer": "ann"}, headers=_bearer(made[scope]))
            assert answer.status_code == status


def test_without_a_key_of_the_stack_the_service_is_open_and_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with running(create_app(settings(path))) as url:
        assert httpx.put(f"{url}/v1/rollouts/r0/critiques/ann", json=WORDS).status_code == 201
    assert sqlite3.connect(path).execute("SELECT * FROM human_keys").fetchall() == []
