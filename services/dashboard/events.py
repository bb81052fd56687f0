"""A run as a stream of server-sent events: what the learner appends to its files, as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi.sse import ServerSentEvent

from services.dashboard.answers import RunLine, run_line
from services.dashboard.runs import RunFiles
from shared.errors import DataError
from shared.jsonl_tail import JsonlTail

POLL_S = 0.5


async def events(
    run: RunFiles, after: str | None, stopping: Callable[[], bool] = lambda: False
) -> AsyncIterator[ServerSentEvent]:
    """`run` for the run's line whenever it changes; `metrics` and `timings` for each new record; `replaced` where the
    records begin anew, since the run was resumed or started afresh.

    `after` is the id of the last event that is known. Events of one reading share the id of the last of them, so that
    some may come twice: a record takes the place of an earlier one of its kind and step. It ends when the service is
    `stopping`.
    """
    places = (after or "").split("-")
    tails = {
        name: JsonlTail(run.path / f"{name}.jsonl", place)
        for name, place in zip(("metrics", "timings"), places if len(places) == 2 else (None, None), strict=True)
    }
    shown: RunLine | None = None
    while not stopping():
        for name, tail in tails.items():
            read = await asyncio.to_thread(tail.read)
            here = "-".join(one.position for one in tails.values())
            if read.replaced:
                yield ServerSentEvent(event="replaced", data={"file": name}, id=None if read.records else here)
            for number, record in enumerate(read.records, 1):
                yield ServerSentEvent(event=name, data=record, id=here if number == len(read.records) else None)
        line = await asyncio.to_thread(_line, run)
        if line is not None and line != shown:
            shown = line
            yield ServerSentEvent(event="run", data=line)
        await asyncio.sleep(POLL_S)


def _line(run: RunFiles) -> RunLine | None:
    """None while a run of this name is moved aside."""
    try:
        return run_line(run)
    except DataError:
        return None
