"""Weights from GPU to GPU: one publication, in vLLM's order of steps, and never half of it.

No GPU is needed: what sends and what receives are small stand-ins that move real weights of a real model between two
threads; the trainer, the gateway and its engine over vLLM's routes are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from services.inference.app import create_app
from shared.errors import DataError, InfrastructureError, SettingsError
from shared.inference_client import InferenceClient
from shared.settings import InferenceSettings, LearnerSettings, ModelSettings, Settings, VLLMSettings
from tests.services.inference.inference_support import wait_ready
from tests.services.inference.vllm.fake_vllm import FakeVLLM
from tests.serving import running
from tests.tiny_model import make_tiny_model
from trainer.policy import Policy
from trainer.publisher import Publisher
from trainer.transfer import Transfer, connect

ROLLOUTS = {"prompts": [{"token_ids": [9]}], "sampling": {"max_tokens": 1}}
STEPS = ["pause", "start_weight_update", "update_weights", "finish_weight_update", "resume"]


class Sender:
    """What vLLM's NCCL sender does, without NCCL: announces the parameters and sends them meanwhile."""

    def __init__(self, control: Any, policy: Policy, fake: FakeVLLM) -> None:
        self.control = control
        self.policy = policy
        self.fake = fake

    def send_weights(self) -> None:
        weights = dict(self.policy.network.named_parameters())
        self.control.start_weight_update()
        self.fake.wire.put({name: tensor.detach().clone() for name, tensor in weights.items()})
        info = {"names": list(weights), "dtype_names": ["float32"] * len(weights)}
        self.control.update_weights(info | {"shapes": [list(tensor.shape) for tensor in weights.values()]})
        self.control.finish_weight_update()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model", seed=1)


@pytest.fixture
def fake() -> FakeVLLM:
    return FakeVLLM(seed=1)


@pytest.fixture
def settings(fake: FakeVLLM, model: Path, tmp_path: Path) -> Iterator[Settings]:
    """Of a gateway that runs over the fake, with its URL."""
    with running(fake.app) as vllm:
        inference = InferenceSettings(
            engine="vllm", publish="nccl", policy_root=str(tmp_path), vllm=VLLMSettings(url=vllm), timeout_s=20
        )
        settings = Settings(model=ModelSettings(path=str(model), device="cpu"), inference=inference)
        with running(create_app(settings)) as url, wait_ready(url):
            yield settings.model_copy(update={"inference": inference.model_copy(update={"url": url})})


def changed(model: Path) -> Policy:
    policy = Policy(model, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.mul_(1.3)
    return policy


def publish(
    settings: Settings, fake: FakeVLLM, policy: Policy, versions: list[int], **options: Any
) -> list[dict[str, Any]]:
    """Publish the policy as each of the versions; what the engine's workers were told to join."""
    joined: list[dict[str, Any]] = []

    def connected(control: Any, policy: Policy, backend: str, workers: int) -> Sender:
        assert control.own_address() == "127.0.0.1"
        joined.append({"backend": backend, "world_size": workers + 1})
        control.init_weight_transfer_engine(joined[-1])
        return Sender(control, policy, fake)

    async def run() -> None:
        async with InferenceClient(settings.inference, api_key=None) as client:
            transfer = Transfer("nccl", client, timeout_s=options.get("timeout_s", 20), connect=connected)
            publisher = Publisher(transfer, client, "run-1")
            for version in versions:
                try:
                    await publisher.publish(policy, version)
                except InfrastructureError:
                    if not options.get("failing"):
                        raise
                    fake.fails.clear()

    asyncio.run(run())
    return joined


def test_a_transfer_is_one_publication_that_the_canary_confirms(
    settings: Settings, fake: FakeVLLM, model: Path
) -> None:
    policy = changed(model)
    fake.calls.clear()
    joined = publish(settings, fake, policy, [3, 4])
    assert joined == [{"backend": "nccl", "world_size": 3}]
    assert fake.names == ["init_weight_transfer_engine", *STEPS, *STEPS]
    assert fake.calls[0][1] == {"init_info": joined[0]}
    state = httpx.get(f"{settings.inference.url}/v1/policy").json()
    assert (state["run_id"], state["version"], state["blocked"]) == ("run-1", 4, None)
    rollouts = httpx.post(f"{settings.inference.url}/v1/rollouts", json=ROLLOUTS).json()
    assert rollouts["prompts"][0]["rollouts"][0]["versions"] == [{"version": 4, "start": 0, "end": 1}]


def test_a_version_that_is_served_already_is_taken_again_when_it_is_sent_again(
    settings: Settings, fake: FakeVLLM, model: Path
) -> None:
    policy = changed(model)
    fake.calls.clear()
    for _ in range(2):
        publish(settings, fake, policy, [3])
    assert fake.names.count("update_weights") == 2


def test_names_and_shapes_that_do_not_fit_are_refused_before_the_engine_is_touched(
    settings: Settings, fake: FakeVLLM
) -> None:
    fake.calls.clear()
    update = {"names": ["model.norm.weight"], "dtype_names": ["float32"], "shapes": [[31]]}
    body = {"run_id": "run-1", "version": 3, "transfer": {"backend": "nccl", "update": update}}
    response = httpx.post(f"{settings.inference.url}/v1/policy", json=body)
    assert (response.status_code, response.json()["field"]) == (422, "transfer.update")
    assert fake.calls == []


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_transfer_that_fails_midway_blocks_until_another_one_is_whole(
    settings: Settings, fake: FakeVLLM, model: Path, step: str
) -> None:
    fake.fails.add(step)
    joined = publish(settings, fake, changed(model), [3], failing=True)
    answer = httpx.post(f"{settings.inference.url}/v1/rollouts", json=ROLLOUTS)
    assert answer.status_code == 503
    fake.wire.queue.clear()
    fake.version = "default"  # as of a server that was started again
    with wait_ready(settings.inference.url):
        joined += publish(settings, fake, changed(model), [3])
    assert len(joined) == 2
    assert httpx.get(f"{settings.inference.url}/v1/policy").json()["version"] == 3
    assert httpx.post(f"{settings.inference.url}/v1/rollouts", json=ROLLOUTS).status_code == 200


def test_a_sender_that_hangs_is_given_up_in_time(settings: Settings, fake: FakeVLLM, model: Path) -> None:
    class Hanging(Sender):
        def send_weights(self) -> None:
            fake.wire.get()

    async def run() -> None:
        async with InferenceClient(settings.inference, api_key=None) as client:

            def hanging(control: Any, policy: Policy, backend: str, workers: int) -> Sender:
                return Hanging(control, policy, fake)

            transfer = Transfer("nccl", client, timeout_s=0.2, connect=hanging)
            await Publisher(transfer, client, "run-1").publish(changed(model), 3)

    with pytest.raises(InfrastructureError, match="do the GPUs reach each other"):
        asyncio.run(run())


def test_a_service_that_was_started_for_files_takes_no_transfer(fake: FakeVLLM, model: Path, tmp_path: Path) -> None:
    inference = InferenceSettings(policy_root=str(tmp_path), threads=1)
    with (
        running(create_app(Settings(model=ModelSettings(path=str(model)), inference=inference))) as url,
        wait_ready(url),
    ):
        settings = Settings(inference=inference.model_copy(update={"url": url}))
        with pytest.raises(DataError, match=r"inference\.publish=files"):
            publish(settings, fake, changed(model), [3])


def test_without_vllm_beside_the_trainer_there_is_one_clear_sentence(model: Path) -> None:
    control: Any = None
    with pytest.raises(SettingsError, match=r"inference\.publish=nccl needs vLLM"):
        connect(control, changed(model), "nccl", 1)
