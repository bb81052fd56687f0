"""A tiny random model on disk, and policies over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from shared.settings import LearnerSettings, ModelSettings
from trainer.policy import Policy


@pytest.fixture(scope="session")
def tiny_model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-architecture model with random weights and 1,024 positions."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"), context=1024)


@pytest.fixture
def new_policy(tiny_model_directory: Path) -> Callable[..., Policy]:
    """Make a policy: new_policy(temperature=1.0, microbatch_tokens=16384, chunk_tokens=1024)."""

    def make(*, temperature: float = 1.0, **learner: int) -> Policy:
        return Policy(
            tiny_model_directory, ModelSettings(device="cpu"), LearnerSettings(**learner), temperature=temperature
        )

    return make
