"""Routes about rollouts: lists, prompts with their rollouts, one rollout with its tokens, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from services.dashboard.answers import RolloutView, Siblings
from services.dashboard.desk import UNKNOWN_RUN, GroupId, KnownRun, Step, StepAt, TrajectoryId, problems
from services.dashboard.runs import GroupPage, RolloutPage, RolloutQuery, RunFiles
from services.dashboard.runs.rows import whole_lift
from services.dashboard.tokens import token_texts
from shared.problems import Problem

JSONL = "application/jsonl"


class ExportQuery(RolloutQuery):
    """What an export holds. `sort`, `cursor` and `limit` play no part."""

    what: Literal["rollouts", "metrics", "timings"] = Field(
        "rollouts", description="metrics and timings: every record of that file, whatever the filters say."
    )


def router() -> APIRouter:
    """Everything about rollouts."""
    found = APIRouter(tags=["rollouts"])
    _add_lists(found)
    _add_one(found)
    _add_export(found)
    return found


def _add_lists(router: APIRouter) -> None:
    @router.get("/runs/{run}/rollouts", responses=UNKNOWN_RUN)
    def list_rollouts(run: KnownRun, query: Annotated[RolloutQuery, Query()]) -> RolloutPage:
        """Rollouts of a window of steps: sorted, filtered, searched."""
        return run.rollouts(query)

    @router.get("/runs/{run}/groups", responses=UNKNOWN_RUN)
    def list_groups(run: KnownRun, query: Annotated[RolloutQuery, Query()]) -> GroupPage:
        """Prompts of which a rollout matches, each with all its rollouts; best and worst are by their mean reward."""
        return run.groups(query)


def _add_one(router: APIRouter) -> None:
    @router.get(
        "/runs/{run}/rollouts/{trajectory_id}",
        response_model=RolloutView,
        responses=problems(s404="There is no such run, or no such rollout."),
    )
    def get_rollout(run: KnownRun, trajectory_id: TrajectoryId, step: StepAt = None) -> Response:
        """A rollout: prompt, response in tokens, what each source said, the exact teacher prompts."""
        rollout = run.rollout(trajectory_id, step)
        if rollout is None:
            raise Problem(404, "Not Found", "There is no such rollout in this run.", field="trajectory_id")
        view = RolloutView.model_construct(
            **dict(rollout), token_texts=token_texts(rollout), lift_nats=whole_lift(rollout.token_lift)
        )
        # As JSON at once: to check 50,000 tokens once more would take seconds.
        return Response(view.model_dump_json(), media_type="application/json")

    @router.get("/runs/{run}/steps/{step}/groups/{group_id}", responses=problems(s404="There is no such group."))
    def get_siblings(run: KnownRun, step: Step, group_id: GroupId) -> Siblings:
        """The rollouts of one prompt in a step."""
        items = run.siblings(step, group_id)
        if not items:
            raise Problem(404, "Not Found", "There is no such group in this step.", field="group_id")
        return Siblings(items=items)


def _add_export(router: APIRouter) -> None:
    lines: dict[int | str, dict[str, Any]] = {
        200: {"content": {JSONL: {"schema": {"type": "string"}}}, "description": "A line for each."}
    }

    @router.get("/runs/{run}/export", response_class=StreamingResponse, responses={**UNKNOWN_RUN, **lines})
    def export_run(run: KnownRun, query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
        """Every rollout that matches as JSONL, streamed; or the records of metrics.jsonl or timings.jsonl."""
        headers = {"Content-Disposition": f'attachment; filename="{run.path.name}.{query.what}.jsonl"'}
        return StreamingResponse(_exported(run, query), media_type=JSONL, headers=headers)


def _exported(run: RunFiles, query: ExportQuery) -> Iterator[str]:
    if query.what == "rollouts":
        query = query.model_copy(update={"cursor": None})
        return (rollout.model_dump_json() + "\n" for rollout in run.export(query))
    records = run.metrics() if query.what == "metrics" else run.timings()
    return (json.dumps(record) + "\n" for record in records)
