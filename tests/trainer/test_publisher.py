"""Publishing: the canary that goes with the weights, and a service that loses the policy."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import torch
from loop_stack import Stack, stack
from safetensors.torch import load_file
from tiny_model import make_tiny_model, tiny_model
from transformers import AutoModelForCausalLM

from shared.errors import ServiceUnavailable
from shared.settings import LearnerSettings, ModelSettings
from trainer.learner import Learner
from trainer.policy import Policy
from trainer.publisher import Files
from trainer.run_directory import RunDirectory


def policy_of(directory: Path, temperature: float = 1.0) -> Policy:
    return Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=temperature)


def forward(model: Any, ids: list[int]) -> list[float]:
    """Log-probs at temperature 1 of the tokens after the first."""
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), -1)
    values: list[float] = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return values


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_canary_is_the_policys_own_forward_pass_at_temperature_one(
    tiny_model_directory: Path, temperature: float
) -> None:
    policy = policy_of(tiny_model_directory, temperature)
    canary = policy.canary()
    assert canary is not None and len(canary.token_ids) == 32
    oracle = AutoModelForCausalLM.from_pretrained(tiny_model_directory, dtype=torch.float32)
    assert canary.logprobs == pytest.approx(forward(oracle, canary.token_ids), abs=1e-5)
    assert policy.temperature == temperature


def test_the_canary_has_the_same_tokens_under_any_weights_and_draws_from_no_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    one, other = (policy_of(make_tiny_model(tmp_path / f"m{seed}", seed=seed)).canary() for seed in (1, 2))
    assert one is not None and other is not None
    assert one.token_ids == other.token_ids and one.logprobs != other.logprobs
    assert len(set(one.token_ids)) > 16
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_the_canary_fits_the_context(tmp_path: Path) -> None:
    canary = policy_of(make_tiny_model(tmp_path / "short", context=20)).canary()
    assert canary is not None and len(canary.token_ids) == 20


def test_weights_that_are_not_finite_have_no_canary(tmp_path: Path) -> None:
    policy = policy_of(make_tiny_model(tmp_path / "model"))
    with torch.no_grad():
        next(policy.network.parameters()).fill_(float("nan"))
    assert policy.canary() is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_published_in_the_type_of_computation(
    tiny_model_directory: Path, tmp_path: Path, dtype: Literal["float32", "bfloat16"]
) -> None:
    model = ModelSettings(device="cpu", dtype=dtype)
    policy = Policy(tiny_model_directory, model, LearnerSettings(), temperature=1.0)
    announced: dict[str, Any] = {}

    async def announce(fields: dict[str, Any]) -> None:
        announced.update(fields)

    asyncio.run(Files(tmp_path).deliver(policy, 3, announce))
    file = Path(announced["path"]) / "model.safetensors"
    assert announced["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {str(tensor.dtype) for tensor in load_file(file).values()} == {f"torch.{dtype}"}


# ------------------------------------------------------------------------------------------------- a learner's service


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("publisher"), tiny_model_directory, redis_url) as running:
        yield running


def with_learner(services: Stack, name: str, use: Callable[[Learner], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = services.settings(name)
        learner = Learner(settings, RunDirectory(settings))
        try:
            async with asyncio.timeout(60):
                await learner.inference.policy()
                await use(learner)
        finally:
            await learner.aclose()

    asyncio.run(run())


async def publish_of_another_run(services: Stack, *, wrong_canary: bool = False) -> int:
    directory = services.root / "runs" / "another"
    tiny_model(seed=9).save_pretrained(directory)
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    body: dict[str, Any] = {"run_id": "another", "version": 1, "path": str(directory), "sha256": digest}
    if wrong_canary:
        body["canary"] = {"token_ids": [5, 6, 7], "logprobs": [-0.1, -0.1]}
    async with httpx.AsyncClient(base_url=services.inference_url, timeout=30) as client:
        return (await client.post("/v1/policy", json=body)).status_code


@pytest.mark.parametrize("blocked", [False, True])
def test_a_learner_that_waits_for_rollouts_publishes_again_what_the_service_has_lost(
    services: Stack, blocked: bool
) -> None:
    async def use(learner: Learner) -> None:
        await learner._ensure_published()
        assert await learner.publisher.serves(0)
        assert await publish_of_another_run(services, wrong_canary=blocked) == (500 if blocked else 200)
        assert not await learner.publisher.serves(0)
        waiting = asyncio.create_task(learner._live_batch())
        run_id = learner.directory.identity.run_id
        while not await learner.publisher.serves(0):
            await learner.inference.policy(unlike=("another", 1), wait_s=0.1)
        learner.request_stop()
        assert await waiting is None
        state = await learner.inference.policy()
        assert (state.run_id, state.version, state.blocked) == (run_id, 0, None)

    with_learner(services, f"lost-{blocked}", use)


def test_a_learner_that_waits_for_rollouts_does_not_publish_what_is_served(
    services: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(learner: Learner) -> None:
        await learner._ensure_published()
        asked = asyncio.Event()
        serves = learner.publisher.serves

        async def seen(version: int) -> bool:
            answer = await serves(version)
            learner.request_stop()
            asked.set()
            return answer

        async def never(*_: Any) -> None:
            raise AssertionError("published again")

        monkeypatch.setattr(learner.publisher, "serves", seen)
        monkeypatch.setattr(learner.publisher, "publish", never)
        assert await learner._live_batch() is None
        assert asked.is_set()

    with_learner(services, "served", use)


def test_a_service_that_does_not_answer_does_not_end_the_wait(services: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(learner: Learner) -> None:
        async def away(_: int) -> bool:
            learner.request_stop()
            raise ServiceUnavailable("The inference service is away.")

        monkeypatch.setattr(learner.publisher, "serves", away)
        assert await learner._live_batch() is None

    with_learner(services, "away", use)


def test_a_learner_starts_at_a_service_that_is_blocked(services: Stack) -> None:
    async def use(learner: Learner) -> None:
        assert await publish_of_another_run(services, wrong_canary=True) == 500
        publish = learner.publisher.publish

        async def and_stop(policy: Policy, version: int) -> None:
            await publish(policy, version)
            learner.request_stop()

        learner.publisher.publish = and_stop  # type: ignore[method-assign]
        learner._evaluate_if_due = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        await learner.run()
        assert await learner.publisher.serves(0)

    with_learner(services, "blocked", use)
