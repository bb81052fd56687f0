"""The code-execution feedback service: `POST /v1/feedback`, `GET /v1/capabilities`.

The feedback protocol around a pool of sandboxes: ids, replay of repeated requests, overload, clients that hang up,
the end. Judging is `pool.py`, reading bodies is `strict_json.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import marshal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Header, Request
from prometheus_client import CollectorRegistry, Counter, Gauge

from sandbox.attack import open_configured
from sandbox.reference import KINDS
from services.code_feedback.pool import JudgePool, Overloaded, Verdict
from services.code_feedback.replay import KeyReused, Replay
from services.code_feedback.strict_json import StrictRoute
from shared.hang_up import while_connected
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
MAX_RESPONSE_CHARS = 2**20
LAST_ANSWERS_S = 2.0
"""How long answers may take to leave once the time to drain is over."""
SOURCE = SourceInfo(name="code", kind="code", version=VERSION)
DESCRIPTION = "Runs programs against the tests of their task, in a sandbox, and says in words what went wrong."
PROBLEMS = {
    400: "The request cannot be read.",
    401: "The key is missing or wrong.",
    413: "The request, or one of its texts, is too large, or has too many items.",
    415: "The body has a content coding.",
    422: "The body is not strict JSON, a field is wrong, or an idempotency key was used for another request.",
    429: "Too many programs are waiting: ask again after Retry-After seconds.",
    503: "The service is not ready: ask again after Retry-After seconds.",
}

Answer = TypeVar("Answer")


def create_app(settings: Settings) -> FastAPI:
    """The service's application. Its lifespan attacks the sandbox before it serves, and raises SettingsError if the
    tier of `settings.code_feedback.isolation` does not hold."""
    pools: list[JudgePool] = []
    checks: dict[str, Check] = {}
    in_flight: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        isolation = await asyncio.to_thread(open_configured, settings.code_feedback)
        pools.append(JudgePool(isolation, settings.code_feedback, fence_key=_fence_key(settings)))
        checks.clear()
        checks[f"sandbox:{isolation.tier}"] = sandbox_check  # /readyz shows the tier by this name
        try:
            yield
        finally:
            pool = pools.pop()
            if in_flight:
                await asyncio.wait(in_flight, timeout=LAST_ANSWERS_S)
            await asyncio.to_thread(pool.close)

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

    router = APIRouter(route_class=StrictRoute)

    @router.get("/v1/capabilities")
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

    @router.post("/v1/feedback", responses={status: _problem(text) for status, text in PROBLEMS.items()})
    async def feedback(
        http: Request,
        request: FeedbackRequest,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> FeedbackResponse:
        """Judge every item. With an `Idempotency-Key`, a repeated request gets the first one's answer.

        A client that hangs up, or closes its sending side, takes its programs with it, unless another one waits
        under the same key.
        """
        _check_size(request)
        if not pools:
            raise Problem(503, "Not Ready", "The sandbox is still being tried.", headers={"Retry-After": "1"})
        pool = pools[0]

        async def answer() -> FeedbackResponse:
            response = await _answer(pool, request)
            metrics.count(response)
            return response

        digest = _digest(await http.json())
        work = replay.once(idempotency_key, digest, answer, keep=_settled) if idempotency_key else answer()
        handler = asyncio.current_task()
        assert handler is not None
        in_flight.add(handler)
        handler.add_done_callback(in_flight.discard)
        try:
            return await _answered(http, work, pool)
        except KeyReused as error:
            raise Problem(422, "Idempotency Key Reused", str(error), field="Idempotency-Key") from error

    app.include_router(router)
    return app


def _fence_key(settings: Settings) -> bytes:
    """A secret that only the stack knows, the same after a restart: repeats of a trajectory must read the same."""
    stack = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    return hashlib.sha256(f"code-feedback fence\n{stack}".encode()).digest()


async def _answered(http: Request, work: Coroutine[Any, Any, Answer], pool: JudgePool) -> Answer:
    """The result of `work`, which is cancelled if the client hangs up. Cancelled itself, as it is by the server when
    the time to drain is over, it ends with what there is."""
    working = asyncio.create_task(work)
    try:
        return await while_connected(http, working)
    except asyncio.CancelledError:
        pool.give_up()
        return await working
    finally:
        working.cancel()


def _digest(document: dict[str, Any]) -> bytes:
    """Of what is asked. A client that tries again has less time left: its deadline is no part of it."""
    asked = {name: value for name, value in document.items() if name != "deadline_s"}
    return hashlib.sha256(marshal.dumps(asked, 0)).digest()


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


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
    for place, item in enumerate(request.items):
        if len(item.response.text) > MAX_RESPONSE_CHARS:
            field = f"items.{place}.response.text"
            detail = f"Field '{field}' is wrong: it has more than {MAX_RESPONSE_CHARS} characters."
            raise Problem(413, "Too Long A Response", detail, field=field)


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
