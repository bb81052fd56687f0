"""Whose turn it is: requests take turns, one program at a time, so that a large one does not keep a small one waiting.

Belongs to one event loop; knows nothing of what a job is.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Batch(Generic[Job, Result]):
    """The jobs of one request: `waiting` in order, `results` by job, `over` once nothing more will come.

    `cancelled` is for the threads that run its jobs: it says that nobody wants the result any more.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.waiting = deque(jobs)
        self.results: dict[Job, Result] = {}
        self.over = asyncio.Event()
        self.cancelled = threading.Event()
        self._missing = len(self.waiting)
        self._end_if_complete()

    def settle(self, job: Job, result: Result) -> None:
        """Note the result of a job that has run."""
        self.results[job] = result
        self._missing -= 1
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if not self._missing:
            self.over.set()


class Turns(Generic[Job, Result]):
    """The batches that have jobs waiting, in the order of their turns."""

    def __init__(self) -> None:
        self._batches: deque[Batch[Job, Result]] = deque()

    def add(self, batch: Batch[Job, Result]) -> None:
        """Queue a batch behind the others."""
        if batch.waiting:
            self._batches.append(batch)

    def take(self) -> tuple[Batch[Job, Result], Job] | None:
        """The next job, and the batch it is from; None if none waits."""
        if not self._batches:
            return None
        batch = self._batches.popleft()
        job = batch.waiting.popleft()
        self.add(batch)
        return batch, job

    def drop(self, batch: Batch[Job, Result]) -> int:
        """Cancel a batch. How many of its jobs had not begun."""
        left = len(batch.waiting)
        if left:
            self._batches.remove(batch)
            batch.waiting.clear()
        batch.cancelled.set()
        return left
