"""The inference service's HTTP face: native routes here, OpenAI-compatible ones in `openai_routes.py`.

    POST /v1/rollouts       sample: token ids, log-probs, policy versions
    POST /v1/token_counts   how long prompts are
    POST /v1/score          log-probs of given tokens
    GET  /v1/policy         what is served; waits for another version if asked to
    POST /v1/policy         serve a new version

What computes is behind `engine.py`; this module loads neither torch nor an engine.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.openapi.models import Example

from services.inference.canary import CanaryMismatch
from services.inference.engine import Engine, make_engine
from services.inference.metrics import Metrics
from services.inference.openai_routes import make_openai_router
from services.inference.policy_store import PolicyStore
from services.inference.sampling_requests import Requests, answered
from services.inference.supervisor import Supervisor
from services.inference.text import Text
from shared.errors import DataError
from shared.models import resolve_model
from shared.protocol import (
    PolicyPublication,
    PolicyState,
    RolloutRequest,
    RolloutResponse,
    ScoreRequest,
    ScoreResponse,
    TokenCountRequest,
    TokenCounts,
    TransferGroup,
    TransferInit,
)
from shared.service import Problem, create_service
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
_TOKEN_COUNTS_EXAMPLE: dict[str, Example] = {
    "one prompt": {"value": {"prompts": [{"messages": [{"role": "user", "content": "What is 3 + 4?"}]}]}}
}
_SCORE_EXAMPLE: dict[str, Example] = {
    "two tokens": {"value": {"sequences": [{"prompt_token_ids": [9, 70, 71], "token_ids": [72, 1]}]}}
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
    running, text, store, metrics = engine, Text(settings.model.path), PolicyStore(settings, engine), Metrics()
    store.on_published, store.on_canary = metrics.publish_s.observe, metrics.canary_nats.set

    def prepare() -> None:
        text.load()
        store.load_reference()

    supervisor = Supervisor(running, store, prepare, metrics.restarts.inc)
    app = create_service(
        "inference",
        settings,
        checks={"engine": supervisor.check},
        lifespan=supervisor.lifespan,
        exposition=lambda: metrics.read(running),
        description="Samples from the policy, with token ids, log-probs and policy versions.",
    )
    metrics.register(app.state.registry, store)
    requests = Requests(running, text, store.require_tried)
    serving = [Depends(supervisor.require_serving)]
    app.include_router(_sampling_routes(requests, metrics), dependencies=serving)
    app.include_router(make_openai_router(settings, requests), dependencies=serving)
    app.include_router(_policy_routes(store, supervisor))
    return app


def _sampling_routes(requests: Requests, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["policy"])

    @router.post("/v1/rollouts")
    async def rollouts(
        http: Request, request: Annotated[RolloutRequest, Body(openapi_examples=_ROLLOUTS_EXAMPLE)]
    ) -> RolloutResponse:
        """Sample `n` rollouts of each prompt. A client that hangs up stops its tokens."""
        ids = requests.prompt_ids(request.prompts)
        sampling = requests.fitted(ids, request.sampling, "sampling.max_tokens")
        made = await answered(http, requests.sample(ids, request.n, sampling))
        metrics.count(made)
        return RolloutResponse(prompts=made)

    @router.post("/v1/token_counts")
    async def token_counts(
        request: Annotated[TokenCountRequest, Body(openapi_examples=_TOKEN_COUNTS_EXAMPLE)],
    ) -> TokenCounts:
        """How many tokens each prompt has, and how many prompt and response may have together."""
        counts = [len(ids) for ids in requests.prompt_ids(request.prompts)]
        return TokenCounts(tokens=counts, max_context=requests.engine.info.max_context)

    @router.post("/v1/score")
    async def score(
        http: Request, request: Annotated[ScoreRequest, Body(openapi_examples=_SCORE_EXAMPLE)]
    ) -> ScoreResponse:
        """Log-probs, at temperature 1, of given tokens after given prompts."""
        return ScoreResponse(sequences=await answered(http, requests.score(request.sequences)))

    return router


def _policy_routes(store: PolicyStore, supervisor: Supervisor) -> APIRouter:
    router = APIRouter(tags=["policy"])

    @router.post("/v1/policy", dependencies=[Depends(supervisor.require_running)])
    async def publish(publication: Annotated[PolicyPublication, Body(openapi_examples=_POLICY_EXAMPLE)]) -> PolicyState:
        """Serve a version from now on; a refused one (422) leaves the old one in place. One whose canary is wrong (500)
        blocks all sampling until another passes."""
        try:
            return await store.publish(publication)
        except CanaryMismatch as error:
            raise Problem(500, "Canary Mismatch", str(error), field="canary") from error

    @router.get("/v1/policy/transfer", dependencies=[Depends(supervisor.require_running)])
    async def transfer_group() -> TransferGroup:
        """Who takes part in a transfer of weights between GPUs."""
        return await store.transfer_group()

    @router.post("/v1/policy/transfer", dependencies=[Depends(supervisor.require_running)])
    async def join_transfer(init: TransferInit) -> TransferGroup:
        """Make the engine's workers join a transfer of weights; a publication with `transfer` may follow."""
        return await store.join_transfer(init)

    @router.get("/v1/policy", dependencies=[Depends(supervisor.require_started)])
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
