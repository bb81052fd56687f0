"""Critique by people: put at any time, before or after its rollout, and on the disk before the answer.

Writers put critiques and read what became of them; reviewers claim rollouts one by one; the collector asks as it asks
any source; the learner polls for what came late, and reports the use of each. Here the parts are put together: routes
in `*_routes.py`, what they do to the database in `critiques.py`, `rollouts.py`, `reviews.py` and `questions.py`, the
reviewers' page at `/review/` in `page/`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from sqlalchemy import Connection, update
from starlette.middleware import Middleware

from services.human_feedback import critique_routes, review_routes, schema, source_routes
from services.human_feedback.critiques import NotAsExpected
from services.human_feedback.database import Database
from services.human_feedback.desk import Clock, Desk
from services.human_feedback.keys import Keys, ScopedAuth, announce
from services.human_feedback.page import routes as page_routes
from services.human_feedback.reviews import LostClaim, UnknownClaim
from services.human_feedback.tables import counters
from shared.errors import DataError, SettingsError
from shared.problems import ProblemResponse
from shared.service import create_service
from shared.settings import Settings

STATUSES = {NotAsExpected: (412, "Precondition Failed"), LostClaim: (409, "Conflict"), UnknownClaim: (404, "Not Found")}


def create_app(settings: Settings, clock: Clock = time.time) -> FastAPI:
    """The human-feedback service, with its store at `settings.human_feedback.database`; `clock` is in seconds since
    1970. Raises SettingsError where the settings name what is not there."""
    own = settings.human_feedback
    database, keys = Database(own.database), Keys(settings)
    desk = Desk(database, own, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await database.open(lambda db: schema.prepare(db, own))
        try:
            announce(await database.run(keys.load))
            yield
        finally:
            await database.close()

    async def store() -> str | None:
        await database.run(_touch)
        return None

    app = create_service(
        "human-feedback",
        settings,
        checks={"store": store},
        lifespan=lifespan,
        auth=Middleware(ScopedAuth, keys=keys),
        page=page_routes.PAGE,
        description=__doc__ or "",
    )
    for error, (status, title) in STATUSES.items():
        app.add_exception_handler(error, _handler(status, title))
    guidelines = _guidelines(own.guidelines)
    routers = (
        critique_routes.router(desk),
        review_routes.router(desk, guidelines),
        page_routes.router(desk, guidelines),
        source_routes.router(desk),
    )
    for router in routers:
        app.include_router(router, prefix="/v1")
    return app


def _handler(status: int, title: str) -> Callable[[Request, Exception], ProblemResponse]:
    def answer(_: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, DataError)
        return ProblemResponse(status, title, str(error), field=error.field)

    return answer


def _touch(db: Connection) -> None:
    """Fails where the store cannot be written."""
    db.execute(update(counters).values(value=counters.c.value))


def _guidelines(place: str | None) -> str:
    try:
        return Path(place).read_text(encoding="utf-8") if place is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"human_feedback.guidelines: {place} cannot be read as text: {error}.") from error
