"""The service, fuzzed by its own OpenAPI document with keys on: no 5xx, and nothing without the key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fuzzing import statuses
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from serving import running

from services.dashboard.app import create_app
from shared.settings import Settings
from tests.services.dashboard.a_run import a_run, do_step

STACK = {"Authorization": "Bearer k3y"}
NOT_OURS = [positive_data_acceptance, negative_data_rejection]
"""A document cannot say that a run, a rollout or a cursor must be one that is there."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    run = a_run(folder)
    for step in range(2):
        do_step(run, step)
    with running(create_app(Settings.model_validate({"api_key": "k3y", "run": {"dir": str(folder)}}))) as base:
        yield base


@pytest.fixture(scope="module")
def operations(url: str) -> list[Any]:
    """Every route of the API that ends."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    paths = [path for path in document if path.startswith("/v1/") and not path.endswith("/events")]
    return [document[path][method] for path in paths for method in document[path]]


def test_whatever_is_sent_nothing_fails(operations: list[Any]) -> None:
    assert len(operations) >= 10
    assert all(operation.method.upper() == "GET" for operation in operations), "nothing is ever written"
    answered = set()
    for operation in operations:
        answered |= statuses(operation, GenerationMode.POSITIVE, STACK, 6, excluded=NOT_OURS)
        answered |= statuses(operation, GenerationMode.NEGATIVE, STACK, 5, excluded=NOT_OURS)
    assert {200, 404, 422} <= answered


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer k3"}, {"Authorization": "Basic k3y"}])
def test_without_a_key_nothing_is_answered(operations: list[Any], key: dict[str, str]) -> None:
    for operation in operations:
        assert statuses(operation, GenerationMode.POSITIVE, key, 2, excluded=NOT_OURS) == {401}
