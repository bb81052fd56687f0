"""Clients that hang up: what is computed for one that is gone is given up."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from starlette.requests import Request

from shared.problems import Problem

CLIENT_CLOSED_REQUEST = 499
"""Seen by nobody but the log and the metrics: the client has hung up."""

Answer = TypeVar("Answer")


async def while_connected(http: Request, working: asyncio.Task[Answer]) -> Answer:
    """The result of `working`. Raises Problem 499 as soon as the client hangs up.

    The task is the caller's to cancel, then and when this is cancelled itself. The request's body must have been read.
    """
    listening = asyncio.create_task(_hang_up(http))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem(CLIENT_CLOSED_REQUEST, "Client Closed Request", "The client hung up.")
        return working.result()
    finally:
        listening.cancel()


async def _hang_up(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
