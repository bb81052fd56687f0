"""One stack for all chaos runs of a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chaos_stack import Outcome, Stack, chaos_stack


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Outcome]]:
    """A stack, and what a run in it comes to that nobody disturbs."""
    with chaos_stack(tmp_path_factory.mktemp("chaos")) as both:
        yield both
