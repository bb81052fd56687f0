"""Keeps the engine alive beside the server: starts it, gives it the policy that is served, starts it again if it dies.

`/healthz` answers all the while; what needs the engine says 503 with the reason.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI

from services.inference.engine import Engine
from services.inference.policy_store import PolicyStore
from shared.errors import EngineFailure, SettingsError, VPDError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""An engine that has served for so long has not failed in a row when it dies."""


class Supervisor:
    """Runs `engine` for as long as its lifespan lasts. `prepare` is called first, in a thread, and may raise
    SettingsError; `on_restart` is called with each start after the first."""

    def __init__(
        self, engine: Engine, store: PolicyStore, prepare: Callable[[], None], on_restart: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._store = store
        self._prepare = prepare
        self._on_restart = on_restart
        self._reason: str | None = "The model is still being loaded."
        self._started = False
        self._serving_since = math.inf

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Of the application."""
        running = asyncio.create_task(self._run())
        try:
            yield
        finally:
            running.cancel()
            await self._engine.stop()

    async def check(self) -> str | None:
        """Why nothing can be sampled, or None."""
        return self._reason or self._store.blocked

    async def require_serving(self) -> None:
        """Raises EngineFailure unless the policy published last is served, and its canary has been right."""
        if reason := self._reason or self._store.blocked:
            raise EngineFailure(reason)

    async def require_running(self) -> None:
        """Raises EngineFailure unless the engine can take a publication."""
        if self._reason:
            raise EngineFailure(self._reason)

    async def require_started(self) -> None:
        """Raises EngineFailure until the engine has once served the policy published last."""
        if not self._started:
            raise EngineFailure(self._reason or "The model is still being loaded.")

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                reason = await self._serve_until_death()
                failures = 1 if time.monotonic() - self._serving_since > STEADY_S else failures + 1
            except SettingsError as error:
                # The settings do not change while this process lives.
                self._reason = str(error)
                _log().error("the engine cannot be started", reason=str(error))
                return
            except Exception as error:  # noqa: BLE001  a supervisor that dies of it would leave the engine dead
                failures += 1
                reason = _sentence(error)
                _log().error("the engine could not be started", reason=str(error), exc_info=_unforeseen(error))
            pause_s = _pause_s(failures)
            self._reason = _why(failures, reason)
            _log().warning("the engine is started again", failures=failures, reason=reason, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            self._on_restart()

    async def _serve_until_death(self) -> str:
        await asyncio.to_thread(self._prepare)
        await self._engine.start()
        await self._store.restore()
        self._reason, self._started, self._serving_since = None, True, time.monotonic()
        return await self._engine.died()


def _pause_s(failures: int) -> float:
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 2, 30))


def _why(failures: int, reason: str) -> str:
    if failures == 1:
        return f"The engine is being started again: {reason}"
    return f"The engine has failed {failures} times in a row and is being started again; last: {reason}"


def _sentence(error: Exception) -> str:
    if isinstance(error, VPDError):
        return str(error)
    return f"The engine could not be started ({type(error).__name__}); the log has the reason."


def _unforeseen(error: Exception) -> Exception | None:
    return None if isinstance(error, VPDError) else error


def _log() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("inference")
    return logger
