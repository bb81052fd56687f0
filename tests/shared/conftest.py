"""The tests of what is kept in Redis run on every server that this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_builders import own_redis

from shared.redis_server import find_redis_servers


@pytest.fixture(
    scope="session", params=find_redis_servers(), ids=lambda binary: binary.parts[-3:][0] + "-" + binary.name
)
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """A server's binary."""
    binary: Path = request.param
    return binary


@pytest.fixture(scope="session")
def redis_url(redis_binary: Path) -> Iterator[str]:
    """URL of an empty server that belongs to this worker alone."""
    with own_redis(binary=redis_binary) as server:
        yield server.url
