"""A sandbox of every tier this machine has; tests with `isolation` run once in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.isolation import Isolation, Tier
from tests.sandbox.programs import tier_missing


@pytest.fixture(scope="session", params=["landlock", "bubblewrap"])
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    """A sandbox in one of the two real tiers."""
    tier: Tier = request.param
    if reason := tier_missing(tier):
        pytest.skip(reason)
    one = Isolation(tier)
    yield one
    one.close()


@pytest.fixture(scope="session")
def quick() -> Iterator[Isolation]:
    """A sandbox in the faster tier, for what does not depend on the tier."""
    one = Isolation("bubblewrap" if tier_missing("landlock") else "landlock")
    yield one
    one.close()
