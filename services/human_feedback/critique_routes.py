"""Routes of those who write critiques and read what became of them, of whom the learner is one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy import Connection

from services.human_feedback import answers, critiques, rollouts
from services.human_feedback.answers import Answer
from services.human_feedback.critiques import Expected, expected
from services.human_feedback.desk import Cursor, Desk, IdempotencyKey, Limit, problems, worded
from services.human_feedback.keys import needs
from shared.errors import DataError
from shared.problems import Problem
from shared.protocol import (
    BatchResult,
    BatchResults,
    Critique,
    CritiqueBatch,
    CritiquePage,
    CritiqueState,
    CritiqueUse,
    Identifier,
    NewCritique,
    RolloutPage,
    RolloutRecord,
)

PLACE = "/rollouts/{trajectory_id}/critiques/{identifier}"
Conditional = Annotated[str | None, Header(max_length=1000)]
CREATED: dict[int | str, dict[str, Any]] = {201: {"model": CritiqueState, "description": "It is new."}}
CHANGED = problems(s412="The critique is not at the version that If-Match or If-None-Match names.")
UNKNOWN = problems(s404="There is no such critique.")
REPEATED = problems(s409="A request under this Idempotency-Key is still being answered.")


def router(desk: Desk) -> APIRouter:
    """Everything about critiques."""
    found = APIRouter(tags=["critiques"])
    _add_writing(found, desk)
    _add_posting(found, desk)
    _add_reading(found, desk)
    _add_learner(found, desk)
    return found


def _add_writing(router: APIRouter, desk: Desk) -> None:
    @router.put(PLACE, dependencies=[needs("ingest")], responses=CREATED | CHANGED)
    async def put_critique(
        trajectory_id: Identifier,
        identifier: Identifier,
        critique: Critique,
        response: Response,
        if_match: Conditional = None,
        if_none_match: Conditional = None,
    ) -> CritiqueState:
        """Store a critique (201) or change it (200); a changed one is queued again. The ETag is for If-Match."""
        known, words = expected(if_match, if_none_match), worded(critique)
        now = desk.clock()
        state, new = await desk.run(
            lambda db: critiques.put(db, trajectory_id, identifier, words, now=now, expected=known)
        )
        response.status_code = 201 if new else 200
        response.headers["ETag"] = f'"{state.seq}"'
        return state

    @router.delete(PLACE, status_code=204, dependencies=[needs("admin")], responses=UNKNOWN | CHANGED)
    async def delete_critique(trajectory_id: Identifier, identifier: Identifier, if_match: Conditional = None) -> None:
        """Forget a critique."""
        known = expected(if_match, None)
        if not await desk.run(lambda db: critiques.forget(db, trajectory_id, identifier, expected=known)):
            raise _unknown()


def _add_posting(router: APIRouter, desk: Desk) -> None:
    in_flight: set[str] = set()

    async def answered(http: Request, key: str | None, answer: Callable[[Connection], Answer]) -> Response:
        """Make the answer, once for each key. Raises Problem 409 while another request is at it."""
        now, name = desk.clock(), f"{http.url.path}\n{key}"
        if key is None:
            status, body = await desk.run(answer)
            return Response(body, status, media_type="application/json")
        if name in in_flight:
            detail = "A request under this Idempotency-Key is still being answered: ask again."
            raise Problem(409, "Conflict", detail, field="Idempotency-Key", headers={"Retry-After": "1"})
        in_flight.add(name)
        try:
            asked = await http.body()
            status, body = await desk.run(lambda db: answers.once(db, name, asked, lambda: answer(db), now=now))
        finally:
            in_flight.discard(name)
        return Response(body, status, media_type="application/json")

    @router.post(
        "/critiques", dependencies=[needs("ingest")], response_model=CritiqueState, responses=CREATED | REPEATED
    )
    async def post_critique(http: Request, critique: NewCritique, idempotency_key: IdempotencyKey = None) -> Response:
        """Store a critique of the rollout that it names: 201, or 200 where its identifier was there. Under an
        Idempotency-Key, a repeated request gets the first one's answer."""
        worded(critique)
        now = desk.clock()

        def answer(db: Connection) -> Answer:
            state, new = _put(db, critique, now)
            return 201 if new else 200, state.model_dump_json()

        return await answered(http, idempotency_key, answer)

    @router.post("/critiques/batch", dependencies=[needs("ingest")], response_model=BatchResults, responses=REPEATED)
    async def post_critiques(http: Request, batch: CritiqueBatch, idempotency_key: IdempotencyKey = None) -> Response:
        """Store up to 100 critiques; one result for each, in order. A wrong one costs itself alone."""
        now = desk.clock()

        def answer(db: Connection) -> Answer:
            return 200, BatchResults(results=[_stored(db, entry, now) for entry in batch.items]).model_dump_json()

        return await answered(http, idempotency_key, answer)


def _add_reading(router: APIRouter, desk: Desk) -> None:
    @router.get(PLACE, dependencies=[needs("read")], responses=UNKNOWN)
    async def get_critique(trajectory_id: Identifier, identifier: Identifier, response: Response) -> CritiqueState:
        """A critique, and what became of it."""
        return _tagged(await desk.run(lambda db: critiques.get(db, trajectory_id, identifier)), response)

    @router.get("/critiques/{critique_id}", dependencies=[needs("read")], responses=UNKNOWN)
    async def get_critique_by_id(critique_id: Identifier, response: Response) -> CritiqueState:
        """A critique, and what became of it."""
        return _tagged(await desk.run(lambda db: critiques.get_by_id(db, critique_id)), response)

    @router.get("/critiques", dependencies=[needs("read")])
    async def list_critiques(
        cursor: Cursor = None,
        limit: Limit = 200,
        run_id: Identifier | None = None,
        trajectory_id: Identifier | None = None,
        status: Literal["queued", "used", "stale"] | None = None,
    ) -> CritiquePage:
        """Critiques in the order of their last writes. `cursor` is a page's `next_cursor`, or the `seq` of the last
        critique that is known; `run_id` is what the ids of the trajectories start with."""
        after = int(cursor) if cursor is not None else 0
        return await desk.run(
            lambda db: critiques.page(
                db, after=after, limit=limit, run_id=run_id, trajectory_id=trajectory_id, status=status
            )
        )

    @router.get("/rollouts/{trajectory_id}", dependencies=[needs("read")], responses=problems(s404="It is not known."))
    async def get_rollout(trajectory_id: Identifier) -> RolloutRecord:
        """A rollout as this service was asked about it, with its critiques."""
        record = await desk.run(lambda db: rollouts.get(db, trajectory_id))
        if record is None:
            raise Problem(404, "Not Found", "There is neither such a rollout nor a critique of it.")
        return record

    @router.get("/rollouts", dependencies=[needs("read")])
    async def list_rollouts(run_id: Identifier | None = None, cursor: Cursor = None, limit: Limit = 50) -> RolloutPage:
        """Rollouts, newest first."""
        before = int(cursor) if cursor is not None else None
        return await desk.run(lambda db: rollouts.page(db, run_id=run_id, before=before, limit=limit))


def _add_learner(router: APIRouter, desk: Desk) -> None:
    responses = UNKNOWN | problems(s409="The critique has changed since version `seq`.")

    @router.post(PLACE + "/use", dependencies=[needs("ingest")], responses=responses)
    async def use_critique(
        trajectory_id: Identifier,
        identifier: Identifier,
        use: CritiqueUse,
        seq: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    ) -> CritiqueState:
        """Record what the learner did with a critique; with `seq`, only if it has not changed since that write."""
        now = desk.clock()
        state = await desk.run(lambda db: critiques.use(db, trajectory_id, identifier, use, seq=seq, now=now))
        if state is None:
            raise _unknown()
        if seq is not None and state.seq != seq:
            raise Problem(409, "Conflict", "The critique has changed since it was read.", field="seq")
        return state


def _put(db: Connection, new: NewCritique, now: float) -> tuple[CritiqueState, bool]:
    critique = Critique.model_validate(new.model_dump(exclude={"trajectory_id", "identifier"}))
    identifier = new.identifier or f"n-{uuid.uuid4().hex}"
    return critiques.put(db, new.trajectory_id, identifier, critique, now=now, expected=Expected())


def _stored(db: Connection, entry: dict[str, Any], now: float) -> BatchResult:
    try:
        new = NewCritique.model_validate(entry)
        worded(new)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:200]
        return BatchResult(error=f"Field '{field}' is wrong: {first['msg']}.", field=field)
    except DataError as error:
        return BatchResult(error=str(error), field=error.field)
    return BatchResult(critique=_put(db, new, now)[0])


def _tagged(state: CritiqueState | None, response: Response) -> CritiqueState:
    if state is None:
        raise _unknown()
    response.headers["ETag"] = f'"{state.seq}"'
    return state


def _unknown() -> Problem:
    return Problem(404, "Not Found", "There is no such critique.")
