"""Requests made from a service's own OpenAPI document, and what every answer to one must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

SEEDED = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def statuses(
    operation: Any,
    mode: GenerationMode,
    headers: dict[str, str],
    examples: int,
    *,
    excluded: Sequence[Callable[..., Any]],
) -> set[int]:
    """The statuses of answers to generated requests: none is a 5xx, each is one that the document names for the route,
    and what is refused is a problem document. The checks `excluded` are left out."""
    found: set[int] = set()

    @settings(SEEDED, max_examples=examples)
    @given(operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        response = case.call_and_validate(headers=headers, excluded_checks=list(excluded))
        assert response.status_code < 500
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]
        found.add(response.status_code)

    fuzz()
    return found
