"""What vLLM's CPU backend cannot do of itself and `worker/vpd_vllm_cpu.py` makes it do; each would end the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.settings import VLLMSettings
from tests.services.inference.vllm.vllm_support import (
    CONTEXT,
    PROMPTS,
    gateway,
    publication,
    sample,
    settings_for,
    worst,
)
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

CLOSE = 1e-4
# Heads of 24, for which vLLM has no kernel.
HIDDEN = 96
PART = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[httpx.Client]:
    """Takes prompts in parts of `PART` tokens."""
    model = make_tiny_model(root / "initial", seed=1, hidden=HIDDEN, context=CONTEXT)
    arguments = ["--max-num-batched-tokens", str(PART), "--max-num-seqs", "16"]
    with gateway(settings_for(model, root, vllm=VLLMSettings(arguments=arguments))) as client:
        yield client


def test_logprobs_of_a_model_whose_heads_have_no_kernel_are_the_trainers(service: httpx.Client, root: Path) -> None:
    assert worst(root / "initial", sample(service, *PROMPTS, seed=1)) < CLOSE
    other = make_tiny_model(root / "seed-7", seed=7, hidden=HIDDEN, context=CONTEXT)
    assert service.post("/v1/policy", json=publication(other, version=7)).status_code == 200
    assert worst(other, sample(service, *PROMPTS, seed=1)) < CLOSE


def test_a_seed_gives_the_same_tokens_however_many_parts_the_prompt_is_taken_in(service: httpx.Client) -> None:
    long = {"token_ids": [9 + i % 240 for i in range(10 * PART)]}

    def tokens() -> list[Any]:
        return [rollout["token_ids"] for rollout in sample(service, long, seed=5)[0]["rollouts"]]

    first = tokens()
    # Now most of the prompt is remembered, and one part is left of it.
    assert tokens() == first
