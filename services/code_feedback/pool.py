"""Worker threads that judge programs: bounded, deadlined, in turns, and the same program of the same task once a batch.

Turns what the sandbox says into the fields of a `Feedback`; the protocol around them is `app.py`, whose turn it is
`turns.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import marshal
import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import structlog

from sandbox.confined import Cancelled, DeadlinePassed
from sandbox.diagnosis import describe, fence_of, shorten
from sandbox.extract import extract_program
from sandbox.isolation import Isolation
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from services.code_feedback.turns import Batch, Turns
from shared.errors import DataError, InfrastructureError
from shared.protocol import FeedbackFailure, FeedbackItem
from shared.settings import CodeFeedbackSettings

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.05
"""Weight of the newest program in the mean of how long one takes."""

logger = structlog.get_logger()


@dataclass(frozen=True)
class Verdict:
    """What is said about one item. `latency_s` counts from the request to the verdict."""

    status: Literal["ok", "error", "timeout"]
    reward: float | None = None
    text: str | None = None
    error: FeedbackFailure | None = None
    latency_s: float = 0.0


class Overloaded(InfrastructureError):
    """More programs are waiting than the pool takes; `retry_after_s` is when to ask again, in seconds."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} programs are waiting already: ask again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class _Job:
    """A program of a task, the trajectories that hold it by their places in the request, and until when
    (`time.monotonic`) its verdict is of use."""

    task: CodeTask
    response: str
    trajectories: dict[int, str]
    deadline_at: float


@dataclass(frozen=True)
class _Judged:
    """What became of a job: a verdict by place, with `latency_s` still a point in time; the seconds it took."""

    verdicts: dict[int, Verdict]
    took_s: float


class JudgePool:
    """Judges batches of items in `settings.workers` threads. Owns `isolation` from here on; lives in one event loop.

    `waiting` counts the programs that wait or run. `fence_key` is a secret that fences in the feedback come from.
    """

    def __init__(self, isolation: Isolation, settings: CodeFeedbackSettings, *, fence_key: bytes = b"") -> None:
        self.isolation = isolation
        self.workers = settings.workers or (os.cpu_count() or 1) + 1
        self.queue_limit = settings.queue_limit
        self.waiting = 0
        self._max_chars = settings.max_feedback_chars
        self._fence_key = fence_key
        self._defaults = Defaults(settings.time_limit_s, settings.memory_limit_mb, settings.max_failures)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
        self._free_threads = self.workers
        self._turns: Turns[_Job, _Judged] = Turns()
        self._batches: set[Batch[_Job, _Judged]] = set()
        self._unjudged = _TOO_LATE
        self._mean_s = 0.05

    def give_up(self) -> None:
        """End all batches now: what is not judged yet is an `error` that can be asked again."""
        self._unjudged = _SHUT_DOWN
        for batch in self._batches:
            batch.over.set()

    def close(self) -> None:
        """End what runs, remove the sandbox's files."""
        self.isolation.closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.isolation.close()

    async def judge(self, items: Sequence[FeedbackItem], deadline_s: float) -> list[Verdict]:
        """One verdict for each item, in order; those not judged within `deadline_s` are `timeout`.

        All tasks are read before the first program runs. Raises Overloaded, with nothing started, if the programs
        would not fit in the queue. Cancelled, it takes its programs out of the queue and ends those that run.
        """
        started = time.monotonic()
        deadline_at = started + deadline_s
        self._admit(1)
        jobs, verdicts = await asyncio.to_thread(_read, items, deadline_at)
        self._admit(len(jobs))
        batch: Batch[_Job, _Judged] = Batch(jobs)
        await self._run(batch, deadline_at)
        for job in jobs:
            judged = batch.results.get(job)
            verdicts |= judged.verdicts if judged else dict.fromkeys(job.trajectories, self._unjudged)
        now = time.monotonic()
        return [_timed(verdicts[place], started, now) for place in range(len(items))]

    async def _run(self, batch: Batch[_Job, _Judged], deadline_at: float) -> None:
        if self._unjudged is _SHUT_DOWN:
            return
        self.waiting += len(batch.waiting)
        self._batches.add(batch)
        self._turns.add(batch)
        self._start_more()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline_at - time.monotonic()):
                await batch.over.wait()
        except TimeoutError:
            return
        finally:
            self._batches.discard(batch)
            self.waiting -= self._turns.drop(batch)

    def _admit(self, count: int) -> None:
        """Refuse what would not fit. Where nothing waits anything fits: a request may be larger than the queue."""
        if self.waiting and self.waiting + count > self.queue_limit:
            wait_s = math.ceil(self.waiting * self._mean_s / self.workers)
            raise Overloaded(self.waiting, min(max(1, wait_s), MAX_RETRY_AFTER_S))

    def _start_more(self) -> None:
        while self._free_threads and (turn := self._turns.take()):
            batch, job = turn
            self._free_threads -= 1
            judged = asyncio.get_running_loop().run_in_executor(self._threads, self._judge_one, job, batch.cancelled)
            judged.add_done_callback(partial(self._finished, batch, job))

    def _finished(self, batch: Batch[_Job, _Judged], job: _Job, done: asyncio.Future[_Judged]) -> None:
        self._free_threads += 1
        self.waiting -= 1
        if not done.cancelled():
            judged = done.result()
            self._mean_s += SMOOTHING * (judged.took_s - self._mean_s)
            batch.settle(job, judged)
        self._start_more()

    def _judge_one(self, job: _Job, cancelled: threading.Event) -> _Judged:
        began = time.monotonic()
        try:
            verdicts = self._judge_program(job, cancelled)
        except DataError as error:
            verdicts = _same(job, _bad_data(error))
        except (DeadlinePassed, Cancelled):
            verdicts = _same(job, _TOO_LATE)
        except InfrastructureError as error:
            verdicts = _same(job, _failed(str(error)))
        except Exception:
            logger.exception("unforeseen failure while judging")
            verdicts = _same(job, _failed("The service failed on this item; its log says why.", retryable=False))
        now = time.monotonic()
        timed = {place: replace(verdict, latency_s=now) for place, verdict in verdicts.items()}
        return _Judged(timed, now - began)

    def _judge_program(self, job: _Job, cancelled: threading.Event) -> dict[int, Verdict]:
        if time.monotonic() >= job.deadline_at:
            return _same(job, _TOO_LATE)
        extracted = extract_program(job.response)
        if extracted.program is None:
            return _same(job, Verdict("ok", 0.0, shorten(extracted.failure or "", self._max_chars)))
        report = judge(
            self.isolation,
            job.task,
            extracted.program,
            self._defaults,
            deadline_at=job.deadline_at,
            cancelled=cancelled,
        )
        verdicts = {}
        for place, trajectory_id in job.trajectories.items():
            fence = fence_of(self._fence_key, trajectory_id)
            verdicts[place] = Verdict("ok", report.reward, describe(report, self._max_chars, fence=fence))
        return verdicts


def _read(items: Sequence[FeedbackItem], deadline_at: float) -> tuple[list[_Job], dict[int, Verdict]]:
    """The distinct programs of a request, and the verdicts on items whose task cannot be judged."""
    tasks: dict[bytes, CodeTask | Verdict] = {}
    jobs: dict[bytes, _Job] = {}
    verdicts: dict[int, Verdict] = {}
    for place, item in enumerate(items):
        name = _digest((item.task.kind, item.task.reference))
        task = tasks[name] if name in tasks else tasks.setdefault(name, _read_task(item))
        if isinstance(task, Verdict):
            verdicts[place] = task
        else:
            new = _Job(task, item.response.text, {}, deadline_at)
            jobs.setdefault(_digest((name, item.response.text)), new).trajectories[place] = item.trajectory_id
    return list(jobs.values()), verdicts


def _read_task(item: FeedbackItem) -> CodeTask | Verdict:
    try:
        return parse_task(item.task.kind, item.task.reference)
    except DataError as error:
        return _bad_data(error)


def _digest(value: Any) -> bytes:
    # Version 0 of the format depends on nothing but the value.
    return hashlib.sha256(marshal.dumps(value, 0)).digest()


def _bad_data(error: DataError) -> Verdict:
    message = str(error)
    if error.field is not None and error.field not in message:
        message = f"Field '{error.field}' is wrong: {message}"
    return Verdict("error", error=FeedbackFailure(class_="data", message=message))


def _failed(message: str, *, retryable: bool = True) -> Verdict:
    return Verdict("error", error=FeedbackFailure(class_="infra", message=message, retryable=retryable))


def _same(job: _Job, verdict: Verdict) -> dict[int, Verdict]:
    return dict.fromkeys(job.trajectories, verdict)


def _timed(verdict: Verdict, started: float, now: float) -> Verdict:
    return replace(verdict, latency_s=max(0.0, (verdict.latency_s or now) - started))


_SHUT_DOWN = _failed("The service is shutting down: ask again.")
_TOO_LATE = Verdict(
    "timeout",
    error=FeedbackFailure(class_="infra", message="The deadline came before this item was judged.", retryable=True),
)
