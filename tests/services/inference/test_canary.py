"""The canary over HTTP: what passes, what blocks, what unblocks, and what is no canary."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.inference.app import create_app
from services.inference.engine import Sampled, Scored, Weights
from services.inference.transformers_engine import TransformersEngine
from shared.errors import EngineFailure
from shared.settings import Settings
from tests.services.inference.inference_support import (
    HELLO,
    canary,
    checkpoint,
    sample,
    settings_for,
    wait_ready,
    worst_difference,
)
from tests.serving import running
from tests.tiny_model import tiny_model


class FaultyEngine(TransformersEngine):
    """Keeps its old weights at the next `stale` loads without saying so, and fails the next `failing` ones half-way."""

    stale = 0
    failing = 0
    loads = 0
    says_version: int | None = None

    async def load(self, weights: Weights, version: int) -> None:
        self.loads += 1
        if self.failing:
            self.failing -= 1
            await super().load(weights, version)
            raise EngineFailure("The engine failed: out of memory.")
        if self.stale:
            self.stale -= 1
            self._loaded.version = version
            return
        await super().load(weights, version)

    async def score(self, sequences: Any) -> list[Scored]:
        scored = await super().score(sequences)
        return [Scored(one.logprobs, one.version if self.says_version is None else self.says_version) for one in scored]


def faulty(settings: Settings) -> FaultyEngine:
    return FaultyEngine(settings.model, settings.inference)


@contextmanager
def serving(settings: Settings, engine: FaultyEngine) -> Iterator[httpx.Client]:
    with running(create_app(settings, engine)) as url, wait_ready(url) as client:
        yield client


@pytest.fixture
def settings(tiny_model_dir: Path, tmp_path: Path) -> Settings:
    return settings_for(tiny_model_dir, tmp_path / "root")


def version(settings: Settings, number: int, **more: Any) -> dict[str, Any]:
    """A publication of random weights of seed `number` with their canary."""
    root = Path(settings.inference.policy_root)
    return checkpoint(root, f"v{number}", seed=number) | {"canary": canary(tiny_model(seed=number))} | more


def pointer(settings: Settings) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(settings.inference.policy_root) / "current_policy.json").read_text())
    return document["publication"]  # type: ignore[no-any-return]


def metric(client: httpx.Client, name: str) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def test_a_version_whose_canary_is_right_is_served(settings: Settings) -> None:
    with serving(settings, faulty(settings)) as client:
        state = client.post("/v1/policy", json=version(settings, 3)).json()
        assert (state["version"], state["blocked"]) == (3, None)
        assert metric(client, "vpd_policy_canary_nats") < 1e-4
        assert metric(client, "vpd_policy_publish_seconds_count") == 1
    assert pointer(settings)["canary"] == canary(tiny_model(seed=3))


def test_an_engine_that_keeps_its_old_weights_once_is_told_again(settings: Settings) -> None:
    engine = faulty(settings)
    with serving(settings, engine) as client:
        engine.stale = 1
        assert client.post("/v1/policy", json=version(settings, 3)).status_code == 200
        assert engine.loads == 2
        assert worst_difference(tiny_model(seed=3), sample(client, HELLO)) < 1e-4


def test_an_engine_that_does_not_serve_what_was_published_is_blocked_until_one_passes(settings: Settings) -> None:
    engine = faulty(settings)
    with serving(settings, engine) as client:
        client.post("/v1/policy", json=version(settings, 3)).raise_for_status()
        engine.stale = 2
        refused = client.post("/v1/policy", json=version(settings, 4))
        assert (refused.status_code, refused.headers["content-type"]) == (500, "application/problem+json")
        sentence = refused.json()["detail"]
        assert sentence.startswith("Version 4 of run run-1 is blocked") and "nats, more than the 0.001" in sentence

        score = {"sequences": [{"prompt_token_ids": [9], "token_ids": [70]}]}
        chat = {"model": "policy", **HELLO}
        for path, body in [
            ("/v1/rollouts", {"prompts": [HELLO]}),
            ("/v1/score", score),
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", chat | {"stream": True}),
            ("/v1/completions", {"model": "policy", "prompt": "a"}),
        ]:
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["detail"]) == (503, sentence), path
            assert int(answer.headers["Retry-After"]) > 0
        ready = client.get("/readyz")
        assert ready.status_code == 503 and sentence in ready.text
        state = client.get("/v1/policy").json()
        assert (state["version"], state["blocked"]) == (3, sentence)
        assert pointer(settings)["version"] == 3
        assert metric(client, "vpd_policy_blocked") == 1
        assert metric(client, "vpd_policy_canary_nats") > 0.001

        # Not taken for a repeat of what is served, though it was before.
        assert client.post("/v1/policy", json=version(settings, 3)).json()["blocked"] is None
        assert worst_difference(tiny_model(seed=3), sample(client, HELLO)) < 1e-4
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/policy", json=version(settings, 4)).status_code == 200
        assert pointer(settings)["version"] == 4


def test_the_openai_client_is_told_why_nothing_is_sampled(settings: Settings) -> None:
    engine = faulty(settings)
    with serving(settings, engine) as client:
        engine.stale = 2
        assert client.post("/v1/policy", json=version(settings, 4)).status_code == 500
        asked = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            asked.chat.completions.create(model="policy", messages=HELLO["messages"])
        assert "is blocked" in str(caught.value.body)


def test_scores_of_another_version_are_no_proof(settings: Settings) -> None:
    engine = faulty(settings)
    with serving(settings, engine) as client:
        engine.says_version = 2
        assert client.post("/v1/policy", json=version(settings, 3)).status_code == 500


@pytest.mark.parametrize(
    ("off_by", "dtype", "nats", "status"),
    [
        (0.0005, "float32", None, 200),
        (0.002, "float32", None, 500),
        (0.002, "float32", 0.01, 200),
        (0.2, "bfloat16", None, 200),
        (0.5, "bfloat16", None, 500),
    ],
)
def test_the_tolerance_is_the_settings_or_the_types(
    settings: Settings, off_by: float, dtype: str, nats: float | None, status: int
) -> None:
    model = settings.model.model_copy(update={"dtype": dtype})
    inference = settings.inference.model_copy(update={"canary_nats": nats})
    # The engine computes in float32 all the same, so that nothing but the canary is off.
    changed = settings.model_copy(update={"model": model, "inference": inference})
    with serving(changed, FaultyEngine(settings.model, inference)) as client:
        published = version(settings, 3, canary=canary(tiny_model(seed=3), off_by=off_by))
        assert client.post("/v1/policy", json=published).status_code == status


def test_a_load_that_failed_half_way_blocks_until_one_passes(settings: Settings) -> None:
    engine = faulty(settings)
    with serving(settings, engine) as client:
        client.post("/v1/policy", json=version(settings, 3)).raise_for_status()
        engine.failing = 1
        failed = client.post("/v1/policy", json=version(settings, 4))
        assert failed.status_code == 503
        assert "may be loaded by half" in client.post("/v1/rollouts", json={"prompts": [HELLO]}).json()["detail"]
        assert client.post("/v1/policy", json=version(settings, 4)).status_code == 200
        assert worst_difference(tiny_model(seed=4), sample(client, HELLO)) < 1e-4


def test_a_publication_without_a_canary_is_served(settings: Settings) -> None:
    with serving(settings, faulty(settings)) as client:
        assert client.post("/v1/policy", json=version(settings, 3, canary=None)).json()["version"] == 3


def test_a_restarted_service_tries_the_canary_of_what_it_served(settings: Settings) -> None:
    with serving(settings, faulty(settings)) as client:
        client.post("/v1/policy", json=version(settings, 3)).raise_for_status()
    engine = faulty(settings)
    engine.stale = 2
    with running(create_app(settings, engine)) as url, httpx.Client(base_url=url, timeout=30) as client:
        while (ready := client.get("/readyz")).status_code != 503 or "being loaded" in ready.text:
            pass
        assert "Version 3 of run run-1 is blocked" in ready.text
        state = client.get("/v1/policy").json()
        assert state["version"] == 3 and "is blocked" in state["blocked"]
        assert client.post("/v1/rollouts", json={"prompts": [HELLO]}).status_code == 503
        assert client.post("/v1/policy", json=version(settings, 3)).json()["blocked"] is None
        assert worst_difference(tiny_model(seed=3), sample(client, HELLO)) < 1e-4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"token_ids": [1, 2, 261]}, "canary.token_ids"),
        ({"token_ids": [1, 2, -1]}, "canary.token_ids"),
        ({"token_ids": [1, 2]}, "canary.logprobs"),
        ({"token_ids": [1] * 4}, "canary.logprobs"),
        ({"token_ids": [1] * 129, "logprobs": [-1.0] * 128}, "canary.token_ids"),
        ({"token_ids": [1]}, "canary.token_ids"),
        ({"logprobs": [-1.0, None]}, "canary.logprobs.1"),
        ({"logprobs": []}, "canary.logprobs"),
    ],
)
def test_a_canary_that_cannot_be_scored_is_refused_before_anything_is_loaded(
    service: httpx.Client, root: Path, change: dict[str, Any], field: str
) -> None:
    before = service.get("/v1/policy").json()
    proper = {"token_ids": [1, 2, 3], "logprobs": [-1.0, -2.0]}
    published = checkpoint(root, "bad-canary", seed=5) | {"canary": proper | change}
    response = service.post("/v1/policy", json=published)
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert service.get("/v1/policy").json() == before


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_canary_that_is_not_finite_is_refused(service: httpx.Client, root: Path, value: str) -> None:
    published = json.dumps(checkpoint(root, "bad-canary", seed=5))
    body = published[:-1] + f', "canary": {{"token_ids": [1, 2], "logprobs": [{value}]}}}}'
    response = service.post("/v1/policy", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["field"]) == (422, "canary.logprobs.0")


class SlowCanary(FaultyEngine):
    """Is asked for the canary, and answers once a rollout has been sampled meanwhile."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.asked = threading.Event()
        self.sampled = asyncio.Event()

    async def generate(self, *arguments: Any) -> list[list[Sampled]]:
        made = await super().generate(*arguments)
        self.sampled.set()
        return made

    async def score(self, sequences: Any) -> list[Scored]:
        self.asked.set()
        await self.sampled.wait()
        return await super().score(sequences)


@pytest.mark.parametrize(("stale", "status"), [(0, 200), (2, 503)], ids=["right", "wrong"])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/rollouts", {"prompts": [HELLO], "sampling": {"max_tokens": 4}}),
        ("/v1/completions", {"model": "policy", "prompt": [9, 70], "max_tokens": 4}),
    ],
)
def test_what_was_sampled_before_the_canary_is_answered_only_if_it_is_right(
    settings: Settings, stale: int, status: int, route: str, body: dict[str, Any]
) -> None:
    engine = SlowCanary(settings.model, settings.inference)
    with serving(settings, engine) as client, ThreadPoolExecutor(1) as pool:
        engine.stale = stale
        published = pool.submit(client.post, "/v1/policy", json=version(settings, 5))
        assert engine.asked.wait(30)
        assert client.post(route, json=body).status_code == status
        assert published.result().status_code == (200 if status == 200 else 500)
