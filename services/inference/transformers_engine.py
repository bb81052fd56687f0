"""The engine over `transformers`, in this process: one thread computes, so that a batch sees one policy version."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from transformers.utils import logging as transformers_logging

from services.inference.decoding import Cancelled
from services.inference.engine import EngineInfo
from services.inference.local_model import LocalModel
from shared.errors import EngineFailure
from shared.protocol import Message, Rollout, Sampling
from shared.settings import InferenceSettings, ModelSettings

T = TypeVar("T")


@dataclass(eq=False)
class _Job:
    """A request that waits for its turn, or whose rollouts another's batch has made already."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    rollouts: list[Rollout] | None = None


class TransformersEngine:
    """Runs requests one batch at a time, in order of arrival.

    Requests without a seed that sample alike share a batch; one with a seed has batches of its own, since in
    company its tokens would depend on the others.
    """

    def __init__(self, model: ModelSettings, inference: InferenceSettings) -> None:
        self._model_settings = model
        self._settings = inference
        self._model: LocalModel | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._turn = asyncio.Lock()
        self._waiting: list[_Job] = []
        self._stopping = threading.Event()

    @property
    def info(self) -> EngineInfo:
        """Limits of the loaded model."""
        return self._loaded.info

    async def start(self) -> None:
        """Load the model that the settings name. Raises SettingsError or EngineFailure."""
        self._model = await self._compute(self._load_model)

    async def stop(self) -> None:
        """Give up what is running and free the thread."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Prompt token ids of a chat."""
        return self._loaded.render(messages)

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text."""
        return self._loaded.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._loaded.decode(token_ids)

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        """One rollout of each prompt, all under one policy version."""
        job = _Job(prompts, sampling)
        self._waiting.append(job)
        try:
            async with self._turn:
                if job.rollouts is None:
                    await self._run(self._batch_of(job))
        finally:
            self._waiting.remove(job)
        assert job.rollouts is not None
        return job.rollouts

    async def load(self, directory: Path, version: int) -> None:
        """Check the weights beside the running batch, swap them after it."""
        weights = await asyncio.to_thread(self._loaded.read, directory)
        await self._compute(lambda: self._loaded.swap(weights, version))

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
        return LocalModel(self._model_settings, max_batch_rows=self._settings.max_batch_rows)

    def _batch_of(self, first: _Job) -> list[_Job]:
        """`first`, and what may run with it of those that wait and are not done."""
        batch, rows = [first], len(first.prompts)
        if first.sampling.seed is not None:
            return batch
        for job in self._waiting:
            fits = rows + len(job.prompts) <= self._settings.max_batch_rows
            if job is not first and job.rollouts is None and job.sampling == first.sampling and fits:
                batch.append(job)
                rows += len(job.prompts)
        return batch

    async def _run(self, batch: Sequence[_Job]) -> None:
        model, sampling = self._loaded, batch[0].sampling
        prompts = [prompt for job in batch for prompt in job.prompts]
        rollouts = iter(await self._compute(lambda: model.generate(prompts, sampling, self._stopping.is_set)))
        for job in batch:
            job.rollouts = [next(rollouts) for _ in job.prompts]

    async def _compute(self, work: Callable[[], T]) -> T:
        """Run `work` in the one thread that computes. A caller that goes away does not free the thread early."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Cancelled as error:
            raise EngineFailure("The service is stopping.") from error
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineFailure(f"The engine failed: {reason}") from error
