"""Requests repeated under the same idempotency key get one answer. In memory, bounded, for one process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

MAX_ANSWERS = 256

Answer = TypeVar("Answer")


class KeyReused(ValueError):
    """An idempotency key came back with another request."""


class Replay(Generic[Answer]):
    """Remembers the last `MAX_ANSWERS` answers by key, and joins requests to one that is still being answered."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, asyncio.Task[Answer]]] = OrderedDict()

    async def once(
        self, key: str, body: str, answer: Callable[[], Awaitable[Answer]], *, keep: Callable[[Answer], bool]
    ) -> Answer:
        """The answer under `key`, made by `answer` if there is none. It is forgotten if making it fails or `keep`
        says so. Raises KeyReused if the key was used for another `body` (a digest)."""
        if key in self._known and self._known[key][0] != body:
            raise KeyReused(f"Idempotency-Key '{key}' was used for a different request: give each request its own.")
        if key not in self._known:
            self._remember(key, body, answer, keep)
        # Shielded: one client that hangs up must not take the answer from another.
        return await asyncio.shield(self._known[key][1])

    def _remember(
        self, key: str, body: str, answer: Callable[[], Awaitable[Answer]], keep: Callable[[Answer], bool]
    ) -> None:
        async def make() -> Answer:
            return await answer()

        task = asyncio.ensure_future(make())
        self._known[key] = (body, task)
        task.add_done_callback(lambda done: self._forget_unless(key, done, keep))
        while len(self._known) > MAX_ANSWERS:
            self._known.popitem(last=False)

    def _forget_unless(self, key: str, done: asyncio.Task[Answer], keep: Callable[[Answer], bool]) -> None:
        failed = done.cancelled() or done.exception() is not None
        if (failed or not keep(done.result())) and self._known.get(key, ("", None))[1] is done:
            del self._known[key]
