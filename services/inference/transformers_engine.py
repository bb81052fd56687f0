"""The engine over `transformers`, in this process: one thread computes, so that a batch sees one policy version."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers.utils import logging as transformers_logging

from services.inference.decoding import Cancelled
from services.inference.engine import Checkpoint, EngineInfo, Figures, FinishReason, Piece, Sampled, Scored, Weights
from services.inference.local_model import LocalModel
from shared.errors import DataError, EngineFailure
from shared.protocol import Sampling
from shared.settings import InferenceSettings, ModelSettings

T = TypeVar("T")


@dataclass(eq=False)
class _Job:
    """A request that waits for its batch; `gone` once nobody waits for its responses."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    done: asyncio.Future[list[Sampled]]
    emit: Callable[[Piece], None] | None = None
    gone: bool = field(default=False)


class TransformersEngine:
    """Runs requests one batch at a time, in order of arrival.

    Requests without a seed that sample alike share a batch; one with a seed has batches of its own, since in
    company its tokens would depend on the others. A request whose caller has gone leaves the waiting line, and a batch
    is broken off when that is so of all its requests.
    """

    def __init__(self, model: ModelSettings, inference: InferenceSettings) -> None:
        self._model_settings = model
        self._settings = inference
        self._model: LocalModel | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._runner: asyncio.Task[None] | None = None
        self._stopping = threading.Event()
        self._tokens = 0

    @property
    def info(self) -> EngineInfo:
        """Limits of the loaded model."""
        return self._loaded.info

    async def start(self) -> None:
        """Load the model that the settings name. Raises SettingsError or EngineFailure."""
        self._model = await self._compute(self._load_model)

    async def died(self) -> str:
        """Never: it lives as long as this process."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def stop(self) -> None:
        """Give up what is running and free the thread."""
        self._stopping.set()
        for job in self._waiting:
            _fail(job, EngineFailure("The service is stopping."))
        self._waiting.clear()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def generate(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> list[list[Sampled]]:
        """`n` responses to each prompt, in order, all under one policy version."""
        made = await self._join(self._job(prompts, n, sampling))
        return [made[start : start + n] for start in range(0, len(made), n)]

    async def stream(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> AsyncIterator[Piece]:
        """The same, a token at a time."""
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        job = self._job(prompts, n, sampling)

        def emit(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job.emit = emit
        joining = asyncio.create_task(self._join(job))
        joining.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await joining
        finally:
            joining.cancel()

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """Log-probs at temperature 1 of the tokens after the first of each sequence, between two batches."""
        model, gone = self._loaded, threading.Event()

        def work() -> list[Scored]:
            scores = model.score(sequences, lambda: gone.is_set() or self._stopping.is_set())
            return [Scored(logprobs, model.version) for logprobs in scores]

        try:
            return await self._compute(work)
        finally:
            gone.set()

    async def load(self, weights: Weights, version: int) -> None:
        """Read the weights beside the running batch, swap them after it."""
        if not isinstance(weights, Checkpoint) or weights.adapter:
            raise DataError(
                "The engine transformers takes whole checkpoints from files alone: set inference.engine=vllm for "
                "adapters and for transfers between GPUs.",
                field="path",
            )
        model = self._loaded
        tensors = await asyncio.to_thread(model.read, weights.directory)
        await self._compute(lambda: model.swap(tensors, version))

    async def transfer_world(self) -> int:
        """Raises DataError: weights come from files."""
        raise DataError("The engine transformers takes weights from files alone.", field="backend")

    async def join_transfer(self, init: dict[str, Any]) -> None:
        """Raises DataError: weights come from files."""
        del init
        raise DataError("The engine transformers takes weights from files alone.", field="backend")

    async def figures(self) -> Figures:
        """Requests that run and wait, and tokens sampled so far; there is no limit on keys and values."""
        return Figures(len(self._running), len(self._waiting), None, self._tokens)

    async def exposition(self) -> bytes:
        """Nothing: all that is known is in `figures`."""
        return b""

    @property
    def _loaded(self) -> LocalModel:
        if self._model is None:
            raise EngineFailure("The model is still being loaded.")
        return self._model

    def _load_model(self) -> LocalModel:
        hide_progress: Callable[[], None] = transformers_logging.disable_progress_bar
        hide_progress()
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        rows, context = self._settings.max_batch_rows, self._settings.max_context
        return LocalModel(self._model_settings, max_batch_rows=rows, max_context=context)

    # ------------------------------------------------------------------------------------------------- batches

    def _job(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> _Job:
        rows = [prompt for prompt in prompts for _ in range(n)]
        return _Job(rows, sampling, asyncio.get_running_loop().create_future())

    async def _join(self, job: _Job) -> list[Sampled]:
        """Wait in line; the responses. Leaves it when cancelled."""
        if self._stopping.is_set():
            raise EngineFailure("The service is stopping.")
        self._waiting.append(job)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run_batches())
        try:
            return await job.done
        finally:
            job.gone = True
            with suppress(ValueError):
                self._waiting.remove(job)

    async def _run_batches(self) -> None:
        while self._waiting:
            self._running = self._next_batch()
            try:
                await self._run(self._running)
            except Cancelled:
                pass
            except Exception as error:  # noqa: BLE001  unheard, its requests would wait for ever
                self._spread(error, self._running)
            finally:
                self._running = []

    def _next_batch(self) -> list[_Job]:
        """The first that waits, and what may run with it."""
        first = self._waiting[0]
        batch, rows = [first], len(first.prompts)
        for job in self._waiting[1:] if first.sampling.seed is None else ():
            if job.sampling == first.sampling and rows + len(job.prompts) <= self._settings.max_batch_rows:
                batch.append(job)
                rows += len(job.prompts)
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    async def _run(self, batch: Sequence[_Job]) -> None:
        model, sampling = self._loaded, batch[0].sampling
        prompts = [prompt for job in batch for prompt in job.prompts]
        owners = [(job, index) for job in batch for index in range(len(job.prompts))]

        def unwanted() -> bool:
            return self._stopping.is_set() or all(job.gone for job in batch)

        def emit(row: int, token: int, logprob: float, reason: FinishReason | None) -> None:
            job, index = owners[row]
            if job.emit is not None and not job.gone:
                job.emit(Piece(index, [token], [logprob], reason))

        on_token = emit if any(job.emit for job in batch) else None
        made = iter(await self._compute(lambda: model.generate(prompts, sampling, unwanted, on_token)))
        for job in batch:
            responses = [next(made) for _ in job.prompts]
            self._tokens += sum(len(response.token_ids) for response in responses)
            if not job.done.done():
                job.done.set_result(responses)

    def _spread(self, error: Exception, batch: Sequence[_Job]) -> None:
        """A failure is the first request's; those that only shared its batch try again, unless part of their
        responses has left already."""
        for index, job in enumerate(batch):
            if index == 0 or job.emit is not None or self._stopping.is_set():
                _fail(job, error)
        self._waiting[:0] = [job for job in batch if not job.done.done() and not job.gone]

    async def _compute(self, work: Callable[[], T]) -> T:
        """Run `work` in the one thread that computes. A caller that goes away does not free the thread early."""
        if self._stopping.is_set():
            raise EngineFailure("The service is stopping.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Cancelled as error:
            if not self._stopping.is_set():
                raise
            raise EngineFailure("The service is stopping.") from error
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineFailure(f"The engine failed: {reason}") from error


def _fail(job: _Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
