"""Operations of the queue, repeated while Redis is away: an outage costs time, never a group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from shared.errors import QueueUnavailable

T = TypeVar("T")
log = structlog.get_logger("queue")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


async def patiently(call: Callable[[], T], *, max_outage_s: float, stopping: Callable[[], bool] = lambda: False) -> T:
    """The result of `call`, made in a thread; every operation of the queue is safe to repeat.

    Raises QueueUnavailable when it has failed for `max_outage_s` seconds, at once where `stopping`.
    """
    began = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    warned = False
    while True:
        try:
            result = await asyncio.to_thread(call)
        except QueueUnavailable as error:
            away_s = time.monotonic() - began
            if stopping():
                raise
            if away_s + pause_s > max_outage_s:
                raise QueueUnavailable(
                    f"{error} It stayed so for {max_outage_s:g} s (queue.max_outage_s). Nothing is lost: start the run "
                    "again when it is back, and it resumes."
                ) from error
            if not warned:
                log.warning("the queue is away; trying again", reason=str(error), for_s=max_outage_s)
                warned = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            if warned:
                log.info("the queue is back", after_s=round(time.monotonic() - began, 1))
            return result
