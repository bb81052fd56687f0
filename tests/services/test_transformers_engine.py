"""The transformers engine without HTTP: whose requests share a batch, and what happens to those that are cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.inference.local_model import LocalModel
from services.inference.policy_store import PolicyStore
from services.inference.sampling_requests import sample
from services.inference.transformers_engine import TransformersEngine
from shared.errors import EngineFailure
from shared.protocol import Rollout, Sampling
from shared.settings import InferenceSettings, ModelSettings, Settings

T = TypeVar("T")
PROMPTS = [[9, 70 + index] for index in range(12)]


def with_engine(model: Path, use: Callable[[TransformersEngine], Awaitable[T]], **options: Any) -> T:
    """The result of `use` on a started engine, which is stopped afterwards."""

    async def run() -> T:
        settings = InferenceSettings(threads=1, **options)
        engine = TransformersEngine(ModelSettings(path=str(model), device="cpu"), settings)
        await engine.start()
        try:
            return await use(engine)
        finally:
            async with asyncio.timeout(30):
                await engine.stop()

    return asyncio.run(run())


@dataclass
class Batches:
    """Sizes of the batches that were computed, and whether the first has begun."""

    sizes: list[int] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    seen = Batches()
    generate = LocalModel.generate

    def counted(self: LocalModel, prompts: Any, *rest: Any) -> list[Rollout]:
        seen.sizes.append(len(prompts))
        seen.begun.set()
        return generate(self, prompts, *rest)

    monkeypatch.setattr(LocalModel, "generate", counted)
    return seen


def together(sampling: Sampling) -> Callable[[TransformersEngine], Awaitable[list[list[Rollout]]]]:
    """All prompts at once, each a request of its own."""

    async def use(engine: TransformersEngine) -> list[list[Rollout]]:
        return await asyncio.gather(*(engine.generate([prompt], sampling) for prompt in PROMPTS))

    return use


def test_requests_without_a_seed_share_batches_up_to_the_limit(tiny_model_dir: Path, batches: Batches) -> None:
    # Greedy, so that an answer shows which prompt it belongs to.
    sampling = Sampling(max_tokens=4, temperature=0)
    shared = with_engine(tiny_model_dir, together(sampling), max_batch_rows=8)
    assert batches.sizes[0] <= 8
    assert max(batches.sizes) == 8
    assert len(batches.sizes) < len(PROMPTS)

    async def alone(engine: TransformersEngine) -> list[list[Rollout]]:
        return [await engine.generate([prompt], sampling) for prompt in PROMPTS]

    single = with_engine(tiny_model_dir, alone)
    assert [r[0].token_ids for r in shared] == [r[0].token_ids for r in single]


def test_a_request_with_a_seed_has_a_batch_of_its_own(tiny_model_dir: Path, batches: Batches) -> None:
    with_engine(tiny_model_dir, together(Sampling(max_tokens=4, seed=1)))
    assert batches.sizes == [1] * len(PROMPTS)


def test_a_batch_that_fails_is_one_failure_and_the_requests_that_shared_it_go_on(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = LocalModel.generate, list[int]()

    def fail_once(self: LocalModel, prompts: Any, *rest: Any) -> list[Rollout]:
        calls.append(len(prompts))
        if len(calls) == 1:
            raise RuntimeError("out of memory\nwith details")
        return generate(self, prompts, *rest)

    monkeypatch.setattr(LocalModel, "generate", fail_once)

    async def use(engine: TransformersEngine) -> list[Any]:
        asked = (engine.generate([prompt], Sampling(max_tokens=4)) for prompt in PROMPTS)
        return await asyncio.gather(*asked, return_exceptions=True)

    results = with_engine(tiny_model_dir, use)
    failures = [result for result in results if isinstance(result, Exception)]
    assert [str(failure) for failure in failures] == ["The engine failed: out of memory"]
    assert isinstance(failures[0], EngineFailure)


def test_a_request_that_a_stopping_server_cuts_off_is_a_failure_to_ask_again_and_its_batch_ends(
    tiny_model_dir: Path, batches: Batches
) -> None:
    async def use(engine: TransformersEngine) -> None:
        # Minutes of work: `with_engine` would give up on a stop that waited for it.
        running = asyncio.create_task(sample(engine, PROMPTS, 20_000, Sampling(max_tokens=100)))
        assert await asyncio.to_thread(batches.begun.wait, 30)
        running.cancel()
        with pytest.raises(EngineFailure, match="stopping"):
            await running

    with_engine(tiny_model_dir, use)


@pytest.mark.parametrize("why", ["client gone", "server stopping"])
def test_a_long_poll_ends_when_nobody_waits_for_it(tiny_model_dir: Path, tmp_path: Path, why: str) -> None:
    settings = Settings(inference=InferenceSettings(policy_root=str(tmp_path)))

    async def gone() -> bool:
        return why == "client gone"

    async def use(engine: TransformersEngine) -> int:
        store = PolicyStore(settings, engine)
        polling = asyncio.create_task(store.wait_unlike((None, 0), 3600, gone))
        await asyncio.sleep(0)
        if why == "server stopping":
            polling.cancel()
        async with asyncio.timeout(30):
            return (await polling).version

    assert with_engine(tiny_model_dir, use) == 0
