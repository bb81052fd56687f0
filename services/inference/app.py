"""The inference service's HTTP face: native routes here, OpenAI-compatible ones in `openai_routes.py`.

    POST /v1/rollouts   sample: token ids, log-probs, policy versions
    GET  /v1/policy     what is served; waits for another version if asked to
    POST /v1/policy     serve a new version

What computes is behind `engine.py`; this module loads neither torch nor transformers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.openapi.models import Example
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.inference.engine import Engine, make_engine
from services.inference.openai_routes import make_openai_router
from services.inference.policy_store import PolicyStore
from services.inference.sampling_requests import check_room, prompt_ids, sample
from shared.errors import DataError, EngineFailure, VPDError
from shared.models import resolve_model
from shared.protocol import PolicyPublication, PolicyState, RolloutRequest, RolloutResponse
from shared.service import create_service
from shared.settings import Settings

MAX_WAIT_S = 60.0

_ROLLOUTS_EXAMPLE: dict[str, Example] = {
    "two answers": {
        "value": {
            "prompts": [{"messages": [{"role": "user", "content": "What is 3 + 4?"}]}],
            "n": 2,
            "sampling": {"temperature": 1.0, "max_tokens": 32, "seed": 1},
        }
    }
}
_POLICY_EXAMPLE: dict[str, Example] = {
    "version 12": {"value": {"run_id": "demo-1a2b3c", "version": 12, "path": "demo/policy/v000012", "sha256": "0" * 64}}
}


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The service over `engine`, by default the one the settings ask for.

    Raises SettingsError at once when there is no such model; it is loaded after the start, and `/readyz` says 503
    until it is there and the policy published last is served.
    """
    if engine is None:
        resolve_model(settings.model.path)
        engine = make_engine(settings)
    store = PolicyStore(settings, engine)
    starter = _Starter(engine, store)
    app = create_service(
        "inference",
        settings,
        checks={"engine": starter.check},
        lifespan=starter.lifespan,
        description="Samples from the policy, with token ids, log-probs and policy versions.",
    )
    started = [Depends(starter.require)]
    app.include_router(_native_routes(engine, store, _Metrics(app.state.registry, store)), dependencies=started)
    app.include_router(make_openai_router(settings, engine), dependencies=started)
    return app


class _Starter:
    """Starts the engine beside the server, so that `/healthz` answers while a large model loads."""

    def __init__(self, engine: Engine, store: PolicyStore) -> None:
        self._engine = engine
        self._store = store
        self._starting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(_log_failure)
        try:
            yield
        finally:
            self._starting.cancel()
            await self._engine.stop()

    async def check(self) -> str | None:
        """Why nothing can be sampled yet, or None."""
        if self._starting is None or not self._starting.done():
            return "The model is still being loaded."
        error = self._starting.exception()
        if error is None or isinstance(error, VPDError):
            return None if error is None else str(error)
        return f"The engine could not be started ({type(error).__name__}); the log has the reason."

    async def require(self) -> None:
        """Raises EngineFailure until the policy published last is served: what is sampled before has no version."""
        if reason := await self.check():
            raise EngineFailure(reason)

    async def _start(self) -> None:
        await self._engine.start()
        await self._store.restore()


def _log_failure(starting: asyncio.Task[None]) -> None:
    error = None if starting.cancelled() else starting.exception()
    if error is not None:
        trace = None if isinstance(error, VPDError) else error
        structlog.get_logger("inference").error("the engine could not be started", reason=str(error), exc_info=trace)


class _Metrics:
    """What `/metrics` says beside the common part."""

    def __init__(self, registry: CollectorRegistry, store: PolicyStore) -> None:
        self.rollouts = Counter("vpd_rollouts", "Rollouts sampled.", registry=registry)
        self.tokens = Counter("vpd_response_tokens", "Response tokens sampled.", registry=registry)
        version = Gauge("vpd_policy_version", "Policy version served.", registry=registry)
        version.set_function(lambda: store.version)

    def count(self, response: RolloutResponse) -> None:
        rollouts = [rollout for prompt in response.prompts for rollout in prompt.rollouts]
        self.rollouts.inc(len(rollouts))
        self.tokens.inc(sum(len(rollout.token_ids) for rollout in rollouts))


def _native_routes(engine: Engine, store: PolicyStore, metrics: _Metrics) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/rollouts", tags=["policy"])
    async def rollouts(request: Annotated[RolloutRequest, Body(openapi_examples=_ROLLOUTS_EXAMPLE)]) -> RolloutResponse:
        """Sample `n` rollouts of each prompt under one policy version."""
        ids = prompt_ids(engine, request.prompts)
        check_room(engine, ids, request.sampling.max_tokens, "sampling.max_tokens")
        response = RolloutResponse(prompts=await sample(engine, ids, request.n, request.sampling))
        metrics.count(response)
        return response

    @router.post("/v1/policy", tags=["policy"])
    async def publish(publication: Annotated[PolicyPublication, Body(openapi_examples=_POLICY_EXAMPLE)]) -> PolicyState:
        """Serve a version from the next batch on; a refused one (422) leaves the old one in place."""
        return await store.publish(publication)

    @router.get("/v1/policy", tags=["policy"])
    async def policy(
        request: Request,
        unlike: Annotated[str | None, Query(description="RUN_ID:VERSION; `:0` is the initial model")] = None,
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
    ) -> PolicyState:
        """What is served; with `unlike`, as soon as it is not that, or after `wait_s` seconds as it is."""
        if unlike is None:
            return store.state
        return await store.wait_unlike(_parse_unlike(unlike), wait_s, request.is_disconnected)

    return router


def _parse_unlike(text: str) -> tuple[str | None, int]:
    run_id, colon, version = text.rpartition(":")
    if not colon or not version.isdecimal():
        raise DataError("unlike must be RUN_ID:VERSION, such as demo-1a2b3c:4.", field="unlike")
    return run_id or None, int(version)
