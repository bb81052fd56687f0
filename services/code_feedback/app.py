"""The code-execution feedback service: `POST /v1/feedback`, `GET /v1/capabilities`.

The feedback protocol around a pool of sandboxes: ids, replay of repeated requests, overload. Judging is `pool.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header
from prometheus_client import CollectorRegistry, Counter, Gauge

from sandbox.attack import open_isolation
from sandbox.reference import KINDS
from services.code_feedback.pool import JudgePool, Overloaded, Verdict
from services.code_feedback.replay import KeyReused, Replay
from shared.protocol import (
    Capabilities,
    Feedback,
    FeedbackItem,
    FeedbackRequest,
    FeedbackResponse,
    SourceInfo,
)
from shared.service import Check, Problem, create_service
from shared.settings import Settings

VERSION = "1"
MAX_ITEMS = 1024
SOURCE = SourceInfo(name="code", kind="code", version=VERSION)
DESCRIPTION = "Runs programs against the tests of their task, in a sandbox, and says in words what went wrong."


def create_app(settings: Settings) -> FastAPI:
    """The service's application. Its lifespan attacks the sandbox before it serves, and raises SettingsError if the
    tier of `settings.code_feedback.isolation` does not hold."""
    pools: list[JudgePool] = []
    checks: dict[str, Check] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        isolation = await asyncio.to_thread(open_isolation, settings.code_feedback.isolation)
        pools.append(JudgePool(isolation, settings.code_feedback))
        checks.clear()
        checks[f"sandbox:{isolation.tier}"] = sandbox_check  # /readyz shows the tier by this name
        try:
            yield
        finally:
            await asyncio.to_thread(pools.pop().close)

    async def sandbox_check() -> str | None:
        return None if pools else "The sandbox is still being tried."

    checks["sandbox"] = sandbox_check
    app = create_service(
        "code-feedback",
        settings,
        version=VERSION,
        lifespan=lifespan,
        checks=checks,
        description=DESCRIPTION,
    )
    metrics = _Metrics(app.state.registry, pools)
    replay: Replay[FeedbackResponse] = Replay()

    @app.get("/v1/capabilities")
    async def capabilities() -> Capabilities:
        """What this source can do."""
        return Capabilities(
            name=SOURCE.name,
            version=VERSION,
            kind=SOURCE.kind,
            task_kinds=list(KINDS),
            gives_reward=True,
            gives_text=True,
            max_items=MAX_ITEMS,
            max_bytes=settings.service.max_body_mb * 2**20,
        )

    @app.post("/v1/feedback")
    async def feedback(
        request: FeedbackRequest, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> FeedbackResponse:
        """Judge every item. With an `Idempotency-Key`, a repeated request gets the first one's answer."""
        _check_size(request)
        if not pools:
            raise Problem(503, "Not Ready", "The sandbox is still being tried.", headers={"Retry-After": "1"})

        async def answer() -> FeedbackResponse:
            response = await _answer(pools[0], request)
            metrics.count(response)
            return response

        if idempotency_key is None:
            return await answer()
        try:
            # A client that tries again has less time left: its deadline is no part of what it asks.
            asked = request.model_dump_json(exclude={"deadline_s"})
            body = hashlib.sha256(asked.encode(errors="replace")).hexdigest()
            return await replay.once(idempotency_key, body, answer, keep=_settled)
        except KeyReused as error:
            raise Problem(422, "Idempotency Key Reused", str(error), field="Idempotency-Key") from error

    return app


class _Metrics:
    def __init__(self, registry: CollectorRegistry, pools: list[JudgePool]) -> None:
        self._items = Counter("vpd_code_feedback_items", "Items judged.", ["status", "success"], registry=registry)
        waiting = Gauge("vpd_code_feedback_waiting", "Programs waiting or running.", registry=registry)
        waiting.set_function(lambda: sum(pool.waiting for pool in pools))
        self._tier = Gauge("vpd_code_feedback_tier", "1 for the isolation tier in use.", ["tier"], registry=registry)
        self._pools = pools

    def count(self, response: FeedbackResponse) -> None:
        """Count the items of an answer by what became of them."""
        for pool in self._pools:
            self._tier.labels(pool.isolation.tier).set(1)
        for result in response.results:
            self._items.labels(result.status, str(result.success).lower()).inc()


def _check_size(request: FeedbackRequest) -> None:
    if len(request.items) > MAX_ITEMS:
        detail = f"items has {len(request.items)} entries; send at most {MAX_ITEMS} at once (see /v1/capabilities)."
        raise Problem(413, "Too Many Items", detail, field="items")


async def _answer(pool: JudgePool, request: FeedbackRequest) -> FeedbackResponse:
    try:
        verdicts = await pool.judge(request.items, request.deadline_s)
    except Overloaded as error:
        headers = {"Retry-After": str(error.retry_after_s)}
        raise Problem(429, "Too Many Requests", str(error), headers=headers) from error
    return FeedbackResponse(
        results=[_feedback(item, verdict) for item, verdict in zip(request.items, verdicts, strict=True)]
    )


def _feedback(item: FeedbackItem, verdict: Verdict) -> Feedback:
    identity = hashlib.sha256(f"{item.trajectory_id}\n{SOURCE.name}".encode()).hexdigest()
    return Feedback(
        trajectory_id=item.trajectory_id,
        feedback_id=f"{SOURCE.name}-{identity[:24]}",
        status=verdict.status,
        error=verdict.error,
        reward=verdict.reward,
        success=None if verdict.reward is None else verdict.reward == 1.0,
        text=verdict.text,
        source=SOURCE,
        latency_ms=round(1000 * verdict.latency_s, 1),
    )


def _settled(response: FeedbackResponse) -> bool:
    """Whether asking again could not give a better answer."""
    return not any(result.error is not None and result.error.retryable for result in response.results)
