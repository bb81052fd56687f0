"""What vLLM's CPU backend cannot do of itself and `worker/vpd_vllm_cpu.py` makes it do; each would end the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from shared.models import resolve_model
from shared.settings import LearnerSettings, VLLMSettings
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
from trainer.policy import Policy

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


def test_a_model_whose_heads_have_no_kernel_serves_in_bfloat16_what_the_trainer_publishes(root: Path) -> None:
    source = Path(resolve_model("builtin:renamed_library"))
    settings = settings_for(source, root / "bfloat16")
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": "bfloat16"})})
    trained = Policy(source, settings.model, LearnerSettings(), temperature=1.0)
    with torch.no_grad():
        for weights in trained.network.parameters():
            weights.mul_(1.1)
    trained.save(root / "bfloat16" / "v1", dtype=trained.dtype)
    canary = trained.canary()
    assert canary is not None
    announced = publication(root / "bfloat16" / "v1", version=1, canary=canary.model_dump())
    with gateway(settings) as client:
        response = client.post("/v1/policy", json=announced)
        assert response.status_code == 200, response.text
        assert {len(one["token_ids"]) for one in sample(client, *PROMPTS, n=2, ignore_end=True)[0]["rollouts"]} == {24}
