"""The transformers engine without HTTP: whose requests share a batch, and what happens to those that are cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from services.inference.decoding import Cancelled
from services.inference.engine import Piece, Sampled
from services.inference.local_model import LocalModel
from services.inference.policy_store import PolicyStore
from services.inference.scoring import score
from services.inference.transformers_engine import TransformersEngine
from shared.errors import DataError, EngineFailure
from shared.protocol import Sampling, WeightTransfer
from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.tiny_model import tiny_model

T = TypeVar("T")
PROMPTS = [[9, 70 + index] for index in range(12)]
ENDLESS = Sampling(max_tokens=100, ignore_end=True)
MINUTES_OF_WORK = 20_000
"""Responses that `with_engine` would not wait for."""


def with_engine(model: Path, use: Callable[[TransformersEngine], Awaitable[T]], **options: Any) -> T:
    """The result of `use` on a started engine, which is stopped afterwards."""

    async def run() -> T:
        settings = InferenceSettings(threads=1, **options)
        engine = TransformersEngine(ModelSettings(path=str(model), device="cpu"), settings)
        await engine.start()
        try:
            async with asyncio.timeout(60):
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

    def counted(self: LocalModel, prompts: Any, *rest: Any) -> list[Sampled]:
        seen.sizes.append(len(prompts))
        seen.begun.set()
        return generate(self, prompts, *rest)

    monkeypatch.setattr(LocalModel, "generate", counted)
    return seen


def together(sampling: Sampling) -> Callable[[TransformersEngine], Awaitable[list[list[list[Sampled]]]]]:
    """All prompts at once, each a request of its own."""

    async def use(engine: TransformersEngine) -> list[list[list[Sampled]]]:
        return await asyncio.gather(*(engine.generate([prompt], 1, sampling) for prompt in PROMPTS))

    return use


def test_requests_without_a_seed_share_batches_up_to_the_limit(tiny_model_dir: Path, batches: Batches) -> None:
    # Greedy, so that an answer shows which prompt it belongs to.
    sampling = Sampling(max_tokens=4, temperature=0)
    shared = with_engine(tiny_model_dir, together(sampling), max_batch_rows=8)
    assert batches.sizes[0] <= 8
    assert max(batches.sizes) == 8
    assert len(batches.sizes) < len(PROMPTS)

    async def alone(engine: TransformersEngine) -> list[list[list[Sampled]]]:
        return [await engine.generate([prompt], 1, sampling) for prompt in PROMPTS]

    single = with_engine(tiny_model_dir, alone)
    assert [r[0][0].token_ids for r in shared] == [r[0][0].token_ids for r in single]


def test_a_request_with_a_seed_has_a_batch_of_its_own(tiny_model_dir: Path, batches: Batches) -> None:
    with_engine(tiny_model_dir, together(Sampling(max_tokens=4, seed=1)))
    assert batches.sizes == [1] * len(PROMPTS)


def test_the_responses_of_a_prompt_stand_together_in_the_order_of_the_prompts(tiny_model_dir: Path) -> None:
    sampling = Sampling(max_tokens=4, temperature=0)

    async def use(engine: TransformersEngine) -> tuple[list[list[Sampled]], list[list[Sampled]]]:
        single = [(await engine.generate([prompt], 1, sampling))[0] for prompt in PROMPTS]
        return single, await engine.generate(PROMPTS, 3, sampling)

    single, several = with_engine(tiny_model_dir, use, max_batch_rows=5)
    assert [[r.token_ids for r in responses] for responses in several] == [[r[0].token_ids] * 3 for r in single]


def test_a_batch_that_fails_is_one_failure_and_the_requests_that_shared_it_go_on(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = LocalModel.generate, list[int]()

    def fail_once(self: LocalModel, prompts: Any, *rest: Any) -> list[Sampled]:
        calls.append(len(prompts))
        if len(calls) == 1:
            raise RuntimeError("out of memory\nwith details")
        return generate(self, prompts, *rest)

    monkeypatch.setattr(LocalModel, "generate", fail_once)

    async def use(engine: TransformersEngine) -> list[Any]:
        asked = (engine.generate([prompt], 1, Sampling(max_tokens=4)) for prompt in PROMPTS)
        return await asyncio.gather(*asked, return_exceptions=True)

    results = with_engine(tiny_model_dir, use)
    failures = [result for result in results if isinstance(result, Exception)]
    assert [str(failure) for failure in failures] == ["The engine failed: out of memory"]
    assert isinstance(failures[0], EngineFailure)


def test_an_error_nobody_foresaw_reaches_the_caller_and_the_engine_goes_on(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = LocalModel.generate

    def broken(self: LocalModel, *_: Any) -> list[Sampled]:
        monkeypatch.setattr(LocalModel, "generate", generate)
        raise KeyError("unforeseen")

    monkeypatch.setattr(LocalModel, "generate", broken)

    async def use(engine: TransformersEngine) -> int:
        with pytest.raises(KeyError, match="unforeseen"):
            await engine.generate([[9]], 1, Sampling(max_tokens=2))
        return len(await engine.generate([[9]], 1, Sampling(max_tokens=2)))

    assert with_engine(tiny_model_dir, use) == 1


# --------------------------------------------------------------------------------------------------------- cancellation


def test_a_batch_is_broken_off_when_all_its_callers_have_gone(tiny_model_dir: Path, batches: Batches) -> None:
    async def use(engine: TransformersEngine) -> int:
        running = asyncio.create_task(engine.generate(PROMPTS, MINUTES_OF_WORK, ENDLESS))
        assert await asyncio.to_thread(batches.begun.wait, 30)
        running.cancel()
        # Only when the batch has been broken off does the next one begin.
        return len(await engine.generate([[9]], 1, Sampling(max_tokens=2)))

    assert with_engine(tiny_model_dir, use) == 1


def test_a_batch_goes_on_while_one_of_its_callers_waits(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> list[list[Sampled]]:
        first = asyncio.create_task(engine.generate([[9]], 1, Sampling(max_tokens=40, temperature=0)))
        second = asyncio.create_task(engine.generate([[9, 70]], 1, Sampling(max_tokens=40, temperature=0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert len(with_engine(tiny_model_dir, use)[0]) == 1


def test_a_job_whose_caller_has_gone_leaves_the_waiting_line(tiny_model_dir: Path, batches: Batches) -> None:
    async def use(engine: TransformersEngine) -> int:
        running = asyncio.create_task(engine.generate(PROMPTS, MINUTES_OF_WORK, ENDLESS))
        assert await asyncio.to_thread(batches.begun.wait, 30)
        waiting = asyncio.create_task(engine.generate([[9]], 1, Sampling(seed=1)))
        await asyncio.sleep(0)
        assert (await engine.figures()).waiting == 1
        waiting.cancel()
        await asyncio.sleep(0)
        left = (await engine.figures()).waiting
        running.cancel()
        return left

    assert with_engine(tiny_model_dir, use) == 0
    assert batches.sizes == [len(PROMPTS) * MINUTES_OF_WORK]


def test_scores_nobody_waits_for_are_given_up(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def until_cancelled(self: LocalModel, sequences: Any, cancelled: Callable[[], bool]) -> list[list[float]]:
        begun.set()
        while not cancelled():
            pass
        raise Cancelled

    monkeypatch.setattr(LocalModel, "score", until_cancelled)

    async def use(engine: TransformersEngine) -> int:
        scoring = asyncio.create_task(engine.score([[9, 70]]))
        assert await asyncio.to_thread(begun.wait, 30)
        scoring.cancel()
        return len(await engine.generate([[9]], 1, Sampling(max_tokens=2)))

    assert with_engine(tiny_model_dir, use) == 1


def test_a_score_in_chunks_is_given_up_between_them() -> None:
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        score(tiny_model(seed=0), [[9] * 100] * 64, max_rows=64, cancelled=lambda: next(asked))


def test_what_runs_and_waits_when_the_server_stops_is_a_failure_to_ask_again(
    tiny_model_dir: Path, batches: Batches
) -> None:
    async def use(engine: TransformersEngine) -> list[Any]:
        running = asyncio.create_task(engine.generate(PROMPTS, MINUTES_OF_WORK, ENDLESS))
        assert await asyncio.to_thread(batches.begun.wait, 30)
        waiting = asyncio.create_task(engine.generate([[9]], 1, Sampling(seed=1)))
        await asyncio.sleep(0)
        await engine.stop()
        return await asyncio.gather(running, waiting, return_exceptions=True)

    failures = with_engine(tiny_model_dir, use)
    assert [str(failure) for failure in failures] == ["The service is stopping."] * 2
    assert all(isinstance(failure, EngineFailure) for failure in failures)


# -------------------------------------------------------------------------------------------------------------- streams


def test_the_pieces_of_a_stream_add_up_to_the_responses(tiny_model_dir: Path) -> None:
    sampling = Sampling(max_tokens=30, seed=3, temperature=3)

    async def use(engine: TransformersEngine) -> tuple[list[list[Sampled]], list[Piece]]:
        whole = await engine.generate(PROMPTS, 2, sampling)
        return whole, [piece async for piece in engine.stream(PROMPTS, 2, sampling)]

    whole, pieces = with_engine(tiny_model_dir, use, max_batch_rows=7)
    responses = [response for several in whole for response in several]
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    for index, response in enumerate(responses):
        own = [piece for piece in pieces if piece.index == index]
        assert [token for piece in own for token in piece.token_ids] == response.token_ids
        assert [logprob for piece in own for logprob in piece.logprobs] == response.logprobs
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [response.finish_reason]


def test_pieces_come_before_the_response_is_done_and_closing_the_stream_stops_its_tokens(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> int:
        async with aclosing(engine.stream(PROMPTS, MINUTES_OF_WORK, ENDLESS)) as pieces:
            first = await anext(pieces)
        assert first.finish_reason is None
        return len(await engine.generate([[9]], 1, Sampling(max_tokens=2)))

    assert with_engine(tiny_model_dir, use) == 1


def test_a_stream_that_fails_says_so_after_the_pieces_it_had(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: LocalModel, prompts: Any, sampling: Any, cancelled: Any, on_token: Any) -> list[Sampled]:
        on_token(0, 70, -1.0, None)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LocalModel, "generate", fail)

    async def use(engine: TransformersEngine) -> list[Piece]:
        seen = []
        with pytest.raises(EngineFailure, match="out of memory"):
            async for piece in engine.stream([[9]], 1, Sampling()):
                seen.append(piece)
        return seen

    assert with_engine(tiny_model_dir, use) == [Piece(0, [70], [-1.0], None)]


# --------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("chunk_tokens", [1024, 7])
def test_scores_are_those_of_a_forward_pass_however_they_are_batched(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, chunk_tokens: int
) -> None:
    monkeypatch.setattr("services.inference.scoring.CHUNK_TOKENS", chunk_tokens)
    generator = torch.Generator().manual_seed(0)
    lengths = [2, 128, 5, 5, 40, 3, 17]
    sequences = [torch.randint(0, 261, (length,), generator=generator).tolist() for length in lengths]
    scored = with_engine(tiny_model_dir, lambda engine: engine.score(sequences), max_batch_rows=3)
    for ids, one in zip(sequences, scored, strict=True):
        with torch.no_grad():
            logprobs = torch.log_softmax(tiny_model(seed=0)(torch.tensor([ids])).logits[0, :-1].float(), -1)
        expected = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert one.version == 0
        torch.testing.assert_close(torch.tensor(one.logprobs), expected, atol=1e-5, rtol=0)


def test_with_ignore_end_a_response_goes_on_after_its_end_token(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> list[Sampled]:
        return (await engine.generate([[9]], 64, Sampling(max_tokens=20, temperature=10, seed=1, ignore_end=True)))[0]

    responses = with_engine(tiny_model_dir, use)
    assert {len(response.token_ids) for response in responses} == {20}
    assert {response.finish_reason for response in responses} == {"length"}
    assert any(1 in response.token_ids[:-1] for response in responses)


def test_the_context_may_be_limited_but_not_beyond_what_the_model_has(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> int:
        return engine.info.max_context

    assert with_engine(tiny_model_dir, use, max_context=50) == 50
    assert with_engine(tiny_model_dir, use, max_context=5000) == 128


def test_what_this_engine_cannot_load_is_refused(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> None:
        with pytest.raises(DataError, match="files alone"):
            await engine.load(WeightTransfer(backend="ipc", update={}), 1)

    with_engine(tiny_model_dir, use)


def test_figures_count_the_tokens_of_finished_batches(tiny_model_dir: Path) -> None:
    async def use(engine: TransformersEngine) -> tuple[int, int]:
        made = await engine.generate(PROMPTS, 2, Sampling(max_tokens=5))
        return (await engine.figures()).tokens, sum(len(r.token_ids) for several in made for r in several)

    counted, made = with_engine(tiny_model_dir, use)
    assert counted == made > 0


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
