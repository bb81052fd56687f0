"""Which rollouts are wanted, in which order, a page at a time.

A query looks at a window of steps, by default the last hundred that have rollouts; the answer says at which. A cursor
holds the window and the place of the last item in the order, so that a run that goes on neither repeats nor skips one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.dashboard.runs import cursors
from services.dashboard.runs.rows import Entry, Rollout, RolloutLine, Status
from shared.errors import DataError

WINDOW_STEPS = 100

Sort = Literal["newest", "best", "worst"]
Key = tuple[float, ...]


class RolloutQuery(BaseModel):
    """What a list of rollouts shows. Every filter that is set must hold."""

    model_config = ConfigDict(extra="forbid")

    sort: Sort = Field("newest", description="best and worst are by reward; those without one come last.")
    source: str | None = Field(
        None, max_length=128, description="Only rollouts that this source answered, with `source_status`."
    )
    source_status: Status = Field("ok", description="ok: the source said something, in words or by an outcome.")
    min_reward: float | None = Field(None, ge=0, le=1, description="Rollouts without a reward are left out.")
    max_reward: float | None = Field(None, ge=0, le=1, description="Rollouts without a reward are left out.")
    truncated: bool | None = Field(None, description="Whether the response was cut at its longest length.")
    late: bool | None = Field(None, description="Whether it was trained on again for a critique that came late.")
    search: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Text in the prompt, the response or what was said, in any case.",
    )
    from_step: int | None = Field(None, ge=0, lt=10**12, description="First step; default: a hundred before the last.")
    to_step: int | None = Field(None, ge=0, lt=10**12, description="Last step; default: the last there is.")
    cursor: str | None = Field(None, max_length=400, description="`next_cursor` of the page before.")
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class Group(BaseModel):
    """The rollouts of one prompt in one step, as a list shows them."""

    group_id: str = Field(examples=["demo-1a2b3c-s000003-g000"])
    step: int = Field(examples=[3])
    task_id: str = Field(examples=["renamed_library-0-double5"])
    prompt: str = Field(description="The beginning of the last message.")
    reward_mean: float | None = Field(description="Over all its rollouts that have a reward.", examples=[0.25])
    rollouts: list[RolloutLine] = Field(description="All of the group, in the order they were sampled.")
    matching: int = Field(description="How many of them the filters let through.", examples=[6])


class _Page(BaseModel):
    next_cursor: str | None = Field(description="None: this is the last page.")
    total: int = Field(description="All that match in the window.", examples=[96])
    from_step: int | None = Field(description="The first step that was looked at.", examples=[0])
    to_step: int | None = Field(description="The last step that was looked at.", examples=[11])


class RolloutPage(_Page):
    """A part of a list of rollouts."""

    items: list[RolloutLine]


class GroupPage(_Page):
    """A part of a list of prompts with their rollouts."""

    items: list[Group]


class Cursor(BaseModel):
    """Where a page ended."""

    model_config = ConfigDict(extra="forbid")

    sort: Sort
    first: int
    last: int
    key: list[float]


def window(query: RolloutQuery, steps: Sequence[int]) -> list[int]:
    """The steps that the query looks at, of those there are. Raises DataError for a cursor of another list."""
    cursor = decoded(query)
    if cursor is not None:
        return [step for step in steps if cursor.first <= step <= cursor.last]
    until = [step for step in steps if query.to_step is None or step <= query.to_step]
    if query.from_step is None:
        return until[-WINDOW_STEPS:]
    return [step for step in until if step >= query.from_step]


def matches(entry: Entry, query: RolloutQuery) -> bool:
    """Whether the filters let a rollout through, apart from `search`."""
    if query.source is not None and (query.source, query.source_status) not in {(s.name, s.status) for s in entry.said}:
        return False
    if query.truncated is not None and entry.truncated != query.truncated:
        return False
    if query.late is not None and entry.late != query.late:
        return False
    if query.min_reward is None and query.max_reward is None:
        return True
    low, high = query.min_reward or 0.0, 1.0 if query.max_reward is None else query.max_reward
    return entry.reward is not None and low <= entry.reward <= high


def contains(rollout: Rollout, wanted: str) -> bool:
    """Whether the text stands in the prompt, the response or what was said, in any case."""
    texts = [*(m.content for m in rollout.prompt), rollout.response, *(f.text or "" for f in rollout.feedback)]
    return any(wanted.casefold() in text.casefold() for text in texts)


def place(reward: float | None, step: int, row: int, sort: Sort) -> Key:
    """Where an item stands in the order: the smallest first."""
    newest = (float(-step), float(row))
    if sort == "newest":
        return newest
    unknown = reward is None or not math.isfinite(reward)
    by_reward = 0.0 if reward is None or unknown else -reward if sort == "best" else reward
    return (float(unknown), by_reward, *newest)


def after(places: Sequence[Key], query: RolloutQuery) -> int:
    """Where in the ordered `places` the page begins."""
    cursor = decoded(query)
    if cursor is None:
        return 0
    return sum(one <= tuple(cursor.key) for one in places)


def encoded(query: RolloutQuery, steps: Sequence[int], key: Key) -> str:
    """The cursor of the page that follows the item at `key`."""
    cursor = Cursor(sort=query.sort, first=steps[0], last=steps[-1], key=list(key))
    return cursors.encoded(list(cursor.model_dump().values()))


def decoded(query: RolloutQuery) -> Cursor | None:
    """The query's cursor. Raises DataError where it is none of ours, or of a list in another order."""
    if query.cursor is None:
        return None
    values = cursors.decoded(query.cursor, len(Cursor.model_fields))
    try:
        cursor = Cursor.model_validate(dict(zip(Cursor.model_fields, values, strict=True)))
    except ValidationError as error:
        raise cursors.wrong() from error
    if cursor.sort != query.sort or len(cursor.key) != len(place(None, 0, 0, query.sort)):
        raise DataError("Field 'cursor' is wrong: it is of a list in another order.", field="cursor")
    return cursor
