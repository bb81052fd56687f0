"""What the routes of human-feedback share: the database with a clock, and what they read from requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Header, Query
from sqlalchemy import Connection

from services.human_feedback.database import Database
from shared.critique_text import has_words
from shared.errors import DataError
from shared.protocol import Critique
from shared.settings import HumanFeedbackSettings

Clock = Callable[[], float]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")]
Limit = Annotated[int, Query(ge=1, le=500)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]

Result = TypeVar("Result")


class Desk:
    """The database, the settings and the time."""

    def __init__(self, database: Database, settings: HumanFeedbackSettings, clock: Clock = time.time) -> None:
        self.database = database
        self.settings = settings
        self.clock = clock

    async def run(self, call: Callable[[Connection], Result]) -> Result:
        """The result of `call` on the database, once what it wrote is on the disk."""
        return await self.database.run(call)


def worded(critique: Critique) -> Critique:
    """`critique`, if there is anything in it that a teacher could read. Raises DataError."""
    if not has_words(critique):
        message = "Field 'text' is wrong: it has no words, and neither have remarks or a corrected response."
        raise DataError(message, field="text")
    if any(span.start > span.end for span in critique.spans):
        raise DataError("Field 'spans' is wrong: a passage ends before it starts.", field="spans")
    return critique


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """Answers of a route that are problem documents, by status (`s404="..."`), for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    content = {"application/problem+json": {"schema": schema}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in described.items()}
