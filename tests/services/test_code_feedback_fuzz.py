"""The service, fuzzed by its own OpenAPI document: no 5xx, and no answer that the document does not name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fuzzing import SEEDED, statuses
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from services.code_feedback.app import PROBLEMS, create_app
from shared.protocol import FeedbackResponse
from shared.settings import CodeFeedbackSettings, ServiceSettings, Settings
from tests.services.code_feedback_support import item, request
from tests.serving import running

KEY = {"Authorization": "Bearer k3y"}
NOT_OURS = [positive_data_acceptance]
"""A document cannot say that an idempotency key must be another one for another request."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    own = Settings(
        api_key="k3y",
        code_feedback=CodeFeedbackSettings(isolation="unsafe", workers=2, time_limit_s=0.5),
        service=ServiceSettings(max_body_mb=1),
    )
    with running(create_app(own)) as base:
        yield base


@pytest.fixture(scope="module")
def operations(url: str) -> list[Any]:
    """Every route of the document."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = [document[path][method] for path in document for method in document[path]]
    assert {"/v1/feedback", "/v1/capabilities", "/healthz", "/readyz", "/metrics"} <= {one.path for one in found}
    return found


def test_requests_that_the_document_allows_are_answered(operations: list[Any]) -> None:
    for operation in operations:
        found = statuses(operation, GenerationMode.POSITIVE, KEY, 100, excluded=NOT_OURS)
        assert 200 in found
        assert found <= ({200, 422} if operation.path == "/v1/feedback" else {200})


def test_requests_that_the_document_forbids_are_refused(operations: list[Any]) -> None:
    (feedback,) = (one for one in operations if one.path == "/v1/feedback")
    assert 422 in statuses(feedback, GenerationMode.NEGATIVE, KEY, 150, excluded=NOT_OURS)


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer k3"}, {"Authorization": "Basic k3y"}])
def test_without_the_key_only_the_open_routes_answer(operations: list[Any], key: dict[str, str]) -> None:
    for operation in operations:
        wanted = {401} if operation.path.startswith("/v1/") else {200}
        assert statuses(operation, GenerationMode.POSITIVE, key, 20, excluded=NOT_OURS) == wanted


def test_the_document_names_every_problem_with_its_type(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    responses = paths["/v1/feedback"]["post"]["responses"]
    assert {"200", "401", "413", "422", "429", "503"} <= set(responses)
    for status in map(str, PROBLEMS):
        assert list(responses[status]["content"]) == ["application/problem+json"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.text(max_size=30) | JSON_VALUES
TESTS = st.lists(st.fixed_dictionaries({"input": TEXTS, "output": TEXTS}, optional={"public": JSON_VALUES}), max_size=3)
REFERENCES = st.fixed_dictionaries(
    {},
    optional={
        "tests": TESTS | JSON_VALUES,
        "fn_name": st.just("solve") | JSON_VALUES,
        "test_code": st.sampled_from(["assert solve(1) == 1", "def", "import os"]) | JSON_VALUES,
        "entry_point": st.just("solve") | JSON_VALUES,
        "files": st.dictionaries(st.sampled_from(["lib.py", "../x.py", "é.py"]), TEXTS, max_size=2) | JSON_VALUES,
        "time_limit_s": st.floats(0.1, 0.5) | JSON_VALUES,
        "memory_limit_mb": st.integers(16, 64) | JSON_VALUES,
    },
)
PROGRAMS = st.sampled_from(["print(input())", "def solve(x): return x", "while True: pass", "1/0", "\0", "é = 1"]) | (
    st.text(max_size=30)
)
TASKS = st.fixed_dictionaries(
    {
        "id": st.just("t"),
        "kind": st.sampled_from(["code.stdin", "code.functional", "code.assert", "choice"]),
        "messages": st.just([{"role": "user", "content": "x"}]),
        "reference": REFERENCES,
    }
)


@settings(SEEDED, max_examples=80)
@given(st.lists(st.tuples(TASKS, PROGRAMS), min_size=1, max_size=4))
def test_whatever_the_reference_every_item_is_answered(url: str, asked: list[tuple[dict[str, Any], str]]) -> None:
    items = [{**item(f"t{place}", program), "task": task} for place, (task, program) in enumerate(asked)]
    response = httpx.post(f"{url}/v1/feedback", json=request(*items), headers=KEY, timeout=60)
    assert response.status_code == 200, response.text
    results = FeedbackResponse.model_validate(response.json()).results
    assert [result.trajectory_id for result in results] == [one["trajectory_id"] for one in items]
    for result in results:
        if result.status == "ok":
            assert result.reward is not None and result.text
        else:
            assert result.error is not None and result.error.class_ == "data", "nothing here is the service's failure"
