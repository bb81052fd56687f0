"""Worker threads that judge programs: bounded, deadlined, and the same program of the same task only once a batch.

Turns what the sandbox says into the fields of a `Feedback`; the protocol around them is `app.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from sandbox.confined import DeadlinePassed
from sandbox.diagnosis import describe, shorten
from sandbox.extract import extract_program
from sandbox.isolation import Isolation
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from shared.errors import DataError, InfrastructureError
from shared.protocol import FeedbackFailure, FeedbackItem
from shared.settings import CodeFeedbackSettings

MAX_WAITING_PER_WORKER = 2048


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


class JudgePool:
    """Judges batches of items in `settings.workers` threads. Owns `isolation` from here on."""

    def __init__(self, isolation: Isolation, settings: CodeFeedbackSettings) -> None:
        self.isolation = isolation
        self.workers = settings.workers or (os.cpu_count() or 1) + 1
        self.capacity = self.workers * MAX_WAITING_PER_WORKER
        self.waiting = 0
        self._max_chars = settings.max_feedback_chars
        self._defaults = Defaults(settings.time_limit_s, settings.memory_limit_mb)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")

    def close(self) -> None:
        """Give up what is waiting, end what runs, remove the sandbox's files."""
        self.isolation.closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.isolation.close()

    async def judge(self, items: Sequence[FeedbackItem], deadline_s: float) -> list[Verdict]:
        """One verdict for each item, in order; those not judged within `deadline_s` are `timeout`.

        Raises Overloaded, with nothing started, if they would not fit in the queue.
        """
        started = time.monotonic()
        deadline_at = started + deadline_s
        keys = await asyncio.to_thread(lambda: [_key(item) for item in items])
        unique = dict(zip(keys, items, strict=True))
        self._admit(len(unique))
        jobs = {key: self._submit(item, deadline_at) for key, item in unique.items()}
        try:
            await asyncio.wait([asyncio.wrap_future(job) for job in jobs.values()], timeout=deadline_s)
        finally:
            for job in jobs.values():
                job.cancel()
        verdicts = {key: _result(job, started) for key, job in jobs.items()}
        return [verdicts[key] for key in keys]

    def _admit(self, count: int) -> None:
        if self.waiting and self.waiting + count > self.capacity:
            raise Overloaded(self.waiting, retry_after_s=1 + self.waiting // (20 * self.workers))

    def _submit(self, item: FeedbackItem, deadline_at: float) -> Future[Verdict]:
        self.waiting += 1
        loop = asyncio.get_running_loop()
        job = self._threads.submit(self._judge_one, item, deadline_at)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._one_less) if not loop.is_closed() else None)
        return job

    def _one_less(self) -> None:
        self.waiting -= 1

    def _judge_one(self, item: FeedbackItem, deadline_at: float) -> Verdict:
        try:
            task = parse_task(item.task.kind, item.task.reference)
            verdict = self._judge_program(task, item.response.text, deadline_at)
        except DataError as error:
            verdict = Verdict("error", error=FeedbackFailure(class_="data", message=str(error)))
        except DeadlinePassed:
            verdict = _TOO_LATE
        except InfrastructureError as error:
            verdict = Verdict("error", error=FeedbackFailure(class_="infra", message=str(error), retryable=True))
        return _timed(verdict, time.monotonic())

    def _judge_program(self, task: CodeTask, response: str, deadline_at: float) -> Verdict:
        if time.monotonic() >= deadline_at:
            return _TOO_LATE
        extracted = extract_program(response)
        if extracted.program is None:
            return Verdict("ok", 0.0, shorten(extracted.failure or "", self._max_chars))
        report = judge(self.isolation, task, extracted.program, self._defaults, deadline_at=deadline_at)
        return Verdict("ok", report.reward, describe(report, self._max_chars))


_TOO_LATE = Verdict(
    "timeout",
    error=FeedbackFailure(class_="infra", message="The deadline came before this item was judged.", retryable=True),
)


def _key(item: FeedbackItem) -> str:
    """The same for items whose verdict must be the same: task kind, reference and response."""
    reference = item.task.model_dump_json(include={"kind", "reference"})
    return hashlib.sha256(f"{len(reference)}:{reference}{item.response.text}".encode(errors="replace")).hexdigest()


def _timed(verdict: Verdict, at: float) -> Verdict:
    return Verdict(verdict.status, verdict.reward, verdict.text, verdict.error, at)


def _result(job: Future[Verdict], started: float) -> Verdict:
    if job.done() and not job.cancelled():
        verdict = job.result()
        return _timed(verdict, max(0.0, verdict.latency_s - started))
    return _timed(_TOO_LATE, time.monotonic() - started)
