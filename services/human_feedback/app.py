"""Critique by people: put at any time, before or after its rollout, and on the disk before the answer.

Three kinds of callers: writers (`/v1/rollouts/.../critiques`), the collector (`/v1/feedback`, as any source) and the
learner, which polls `/v1/critiques` for what came late and reports the use of each. The store is `store.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Response

from services.human_feedback.store import CritiqueStore
from shared.feedback_results import abstention, feedback_id
from shared.protocol import (
    Capabilities,
    Critique,
    CritiqueState,
    CritiqueUse,
    Feedback,
    FeedbackItem,
    FeedbackRequest,
    FeedbackResponse,
    Identifier,
    RolloutPage,
    RolloutRecord,
    SourceInfo,
)
from shared.service import Problem, create_service
from shared.settings import Settings

SOURCE = SourceInfo(name="human", kind="human", version="1")
CRITIQUE_PATH = "/rollouts/{trajectory_id}/critiques/{identifier}"


def create_app(settings: Settings) -> FastAPI:
    """The human-feedback service, with its store at `settings.human_feedback.database`."""
    store = CritiqueStore(Path(settings.human_feedback.database))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    app = create_service(
        "human-feedback", settings, checks={"store": store.check}, lifespan=lifespan, description=__doc__ or ""
    )
    for router in (_writers(store), _learner(store), _source(store)):
        app.include_router(router, prefix="/v1")
    return app


def _writers(store: CritiqueStore) -> APIRouter:
    router = APIRouter(tags=["critiques"])

    @router.put(CRITIQUE_PATH, status_code=200, responses={201: {"model": CritiqueState}})
    async def put_critique(
        trajectory_id: Identifier, identifier: Identifier, critique: Critique, response: Response
    ) -> CritiqueState:
        """Store a critique (201) or change it (200); a changed one is queued again."""
        if not critique.text.strip():
            raise Problem(422, "Invalid Request", "Field 'text' is wrong: it has no words.", field="text")
        state, new = await store.put(trajectory_id, identifier, critique)
        response.status_code = 201 if new else 200
        return state

    @router.get(CRITIQUE_PATH)
    async def get_critique(trajectory_id: Identifier, identifier: Identifier) -> CritiqueState:
        """A critique, and what became of it."""
        return _found(await store.get(trajectory_id, identifier))

    @router.delete(CRITIQUE_PATH, status_code=204)
    async def delete_critique(trajectory_id: Identifier, identifier: Identifier) -> None:
        """Forget a critique."""
        if not await store.delete(trajectory_id, identifier):
            raise _unknown()

    @router.get("/rollouts/{trajectory_id}")
    async def get_rollout(trajectory_id: Identifier) -> RolloutRecord:
        """A rollout as this service was asked about it, with its critiques."""
        record = await store.rollout(trajectory_id)
        if record is None:
            raise Problem(404, "Not Found", "There is neither such a rollout nor a critique of it.")
        return record

    @router.get("/rollouts")
    async def list_rollouts(
        run_id: Identifier | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
    ) -> RolloutPage:
        """Rollouts, newest first."""
        return await store.rollouts(run_id, int(cursor) if cursor is not None else None, limit)

    return router


def _learner(store: CritiqueStore) -> APIRouter:
    router = APIRouter(tags=["learner"])

    @router.get("/critiques")
    async def list_critiques(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        run_id: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 200,
    ) -> list[CritiqueState]:
        """Critiques written after sequence number `after`, oldest first, of trajectories whose id starts with
        `run_id`."""
        return await store.after(after, run_id, limit)

    @router.post(CRITIQUE_PATH + "/use")
    async def use_critique(
        trajectory_id: Identifier,
        identifier: Identifier,
        use: CritiqueUse,
        seq: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    ) -> CritiqueState:
        """Record what the learner did with a critique; with `seq`, only if it has not changed since that write."""
        state = _found(await store.use(trajectory_id, identifier, use, seq))
        if seq is not None and state.seq != seq:
            raise Problem(409, "Conflict", "The critique has changed since it was read.", field="seq")
        return state

    return router


def _source(store: CritiqueStore) -> APIRouter:
    router = APIRouter(tags=["source"])

    @router.post("/feedback")
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Remember the rollouts; say what people have written about them already."""
        critiques = await store.ask(request.run_id, request.items)
        return FeedbackResponse(results=[_join(item, critiques[item.trajectory_id]) for item in request.items])

    @router.get("/capabilities")
    async def capabilities() -> Capabilities:
        """What this source can do."""
        return Capabilities(**SOURCE.model_dump(), gives_text=True)

    return router


def _join(item: FeedbackItem, critiques: Sequence[CritiqueState]) -> Feedback:
    if not critiques:
        return abstention(item, SOURCE)
    return Feedback(
        trajectory_id=item.trajectory_id,
        feedback_id=feedback_id(item, SOURCE),
        status="ok",
        text="\n\n".join(state.critique.text for state in critiques),
        source=SOURCE,
    )


def _found(state: CritiqueState | None) -> CritiqueState:
    if state is None:
        raise _unknown()
    return state


def _unknown() -> Problem:
    return Problem(404, "Not Found", "There is no such critique.")
