"""A service that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.inference.app import create_app
from tests.services.inference.inference_support import settings_for, wait_ready
from tests.serving import running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def service(tiny_model_dir: Path, root: Path) -> Iterator[httpx.Client]:
    """A service all tests of this module share; those that publish leave another version behind."""
    with running(create_app(settings_for(tiny_model_dir, root, max_batch_rows=24))) as url, wait_ready(url) as client:
        yield client
