"""The service, fuzzed by its own OpenAPI document with keys on: no 5xx, and no write without the right key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fuzzing import statuses
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from serving import running

from services.human_feedback.app import create_app
from tests.services.human_feedback.support import a_question, failed, settings

STACK = {"Authorization": "Bearer k3y"}
KEYS = {"read_key": "reader", "review_key": "reviewer", "ingest_key": "writer"}
GRANTED = {"reader": {"read"}, "reviewer": {"read", "review"}, "writer": {"read", "ingest"}}
NOT_OURS = [positive_data_acceptance, negative_data_rejection]
"""A document cannot say that an id must be one that is there, or that some text must have words; and parameters that a
route does not know are ignored."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("fuzz") / "h.sqlite3"
    with running(create_app(settings(path, key="k3y", **KEYS))) as base:
        httpx.post(f"{base}/v1/feedback", json=a_question(failed("0"), failed("A")), headers=STACK)
        yield base


@pytest.fixture(scope="module")
def operations(url: str) -> list[Any]:
    """Every route of the API."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return [document[path][method] for path in document for method in document[path] if path.startswith("/v1/")]


def _statuses(operation: Any, mode: GenerationMode, key: dict[str, str], count: int) -> set[int]:
    return statuses(operation, mode, key, count, excluded=NOT_OURS)


def test_whatever_is_sent_nothing_fails(operations: list[Any]) -> None:
    assert len(operations) > 20
    answered = set()
    for operation in operations:
        answered |= _statuses(operation, GenerationMode.POSITIVE, STACK, count=8)
        answered |= _statuses(operation, GenerationMode.NEGATIVE, STACK, count=6)
    assert {200, 201, 204, 404, 422} <= answered


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer k3"}, {"Authorization": "Basic k3y"}])
def test_without_a_key_nothing_is_answered(operations: list[Any], key: dict[str, str]) -> None:
    for operation in operations:
        assert _statuses(operation, GenerationMode.POSITIVE, key, count=2) == {401}


def _needed(operation: Any) -> str:
    """The scope that a route is for."""
    if operation.path.startswith("/v1/review/"):
        return "review"
    if operation.method.upper() == "GET" and not operation.path.startswith("/v1/jobs/"):
        return "read"
    deletes_a_critique = operation.method.upper() == "DELETE" and operation.path.startswith("/v1/rollouts/")
    return "admin" if deletes_a_critique else "ingest"


@pytest.mark.parametrize("key", GRANTED)
def test_a_key_opens_the_routes_of_its_scopes_and_writes_by_no_other(operations: list[Any], key: str) -> None:
    for operation in operations:
        answered = _statuses(operation, GenerationMode.POSITIVE, {"Authorization": f"Bearer {key}"}, count=2)
        if _needed(operation) in GRANTED[key]:
            assert not answered & {401, 403}, operation.label
        else:
            assert answered == {403}, operation.label
