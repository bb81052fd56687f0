"""Requests repeated under the same idempotency key get one answer. In memory, bounded, for one process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

MAX_ANSWERS = 256

Answer = TypeVar("Answer")
Making = Callable[[], Coroutine[Any, Any, Answer]]


class KeyReused(ValueError):
    """An idempotency key came back with another request."""


@dataclass
class _Entry(Generic[Answer]):
    """The request under a key (`body`, a digest), its answer in the making or made, and who waits for it."""

    body: bytes
    answer: asyncio.Task[Answer]
    waiters: int = 0


class Replay(Generic[Answer]):
    """Remembers the last `MAX_ANSWERS` answers by key, and joins requests to one that is still being answered.

    An answer is made for as long as anybody waits for it: one client that hangs up does not take it from another,
    but when the last one has hung up, it is cancelled and forgotten.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Entry[Answer]] = OrderedDict()

    async def once(self, key: str, body: bytes, answer: Making[Answer], *, keep: Callable[[Answer], bool]) -> Answer:
        """The answer under `key`, made by `answer` if there is none. It is forgotten if making it fails or `keep`
        says so. Raises KeyReused if the key was used for another `body`."""
        entry = self._known.get(key)
        if entry is not None and entry.body != body:
            raise KeyReused(f"Idempotency-Key '{key}' was used for a different request: give each request its own.")
        if entry is None:
            entry = self._remember(key, body, answer, keep)
        entry.waiters += 1
        try:
            return await asyncio.shield(entry.answer)
        finally:
            entry.waiters -= 1
            if not entry.waiters and not entry.answer.done():
                entry.answer.cancel()
                self._forget(key, entry)

    def _remember(
        self, key: str, body: bytes, answer: Making[Answer], keep: Callable[[Answer], bool]
    ) -> _Entry[Answer]:
        entry = _Entry(body, asyncio.create_task(answer()))
        self._known[key] = entry

        def decide(done: asyncio.Task[Answer]) -> None:
            if done.cancelled() or done.exception() is not None or not keep(done.result()):
                self._forget(key, entry)

        entry.answer.add_done_callback(decide)
        while len(self._known) > MAX_ANSWERS:
            self._known.popitem(last=False)
        return entry

    def _forget(self, key: str, entry: _Entry[Answer]) -> None:
        if self._known.get(key) is entry:
            del self._known[key]
