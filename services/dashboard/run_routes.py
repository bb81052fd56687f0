"""Routes about whole runs: the list, one run, its curves, its stream of events, its sources, comparison, report."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.dashboard import answers, report
from services.dashboard.answers import Comparison, Curves, RunDetail, RunList, Sources
from services.dashboard.curves import curves
from services.dashboard.desk import UNKNOWN_RUN, KnownRun, found
from services.dashboard.events import events
from services.dashboard.runs import RunsFolder, cursors
from services.dashboard.runs.folder import NAME

Position = Annotated[str | None, Query(max_length=100, description="The `position` of the curves.")]
LastEventId = Annotated[str | None, Header(max_length=100)]
MaxPoints = Annotated[int, Query(ge=10, le=20_000, description="Points of a line at most; else means of neighbours.")]
LastSteps = Annotated[int, Query(ge=1, le=100_000, description="Only the last steps that have rollouts.")]


def router(folder: RunsFolder) -> APIRouter:
    """Everything about runs."""
    found = APIRouter(tags=["runs"])
    _add_lists(found, folder)
    _add_figures(found)
    _add_report(found)
    return found


def _add_lists(router: APIRouter, folder: RunsFolder) -> None:
    @router.get("/runs")
    def list_runs(
        cursor: Annotated[str | None, Query(max_length=400)] = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
    ) -> RunList:
        """The runs in the runs folder, the one that was written last first."""
        keys = folder.written()
        if cursor is not None:
            age, name = cursors.decoded(cursor, 2)
            if not isinstance(age, int | float) or not isinstance(name, str) or not math.isfinite(age):
                raise cursors.wrong()
            keys = [key for key in keys if key > (age, name)]
        shown = keys[:limit]
        lines = [answers.run_line(run) for _, name in shown if (run := folder.run(name)) is not None]
        return RunList(items=lines, next_cursor=cursors.encoded(shown[-1]) if len(keys) > limit else None)

    @router.get("/runs/{run}", responses=UNKNOWN_RUN)
    def get_run(run: KnownRun) -> RunDetail:
        """A run: its settings, how far it is, and what it came to."""
        return answers.run_detail(run)

    @router.get("/compare", responses=UNKNOWN_RUN)
    def compare_runs(
        left: Annotated[str, Query(pattern=NAME, examples=["demo"])],
        right: Annotated[str, Query(pattern=NAME, examples=["grpo"])],
    ) -> Comparison:
        """What two runs differ in: settings, and what they came to. Their curves are each run's own."""
        return answers.comparison(found(folder, left), found(folder, right))


def _add_figures(router: APIRouter) -> None:
    @router.get("/runs/{run}/curves", responses=UNKNOWN_RUN)
    def get_curves(run: KnownRun, max_points: MaxPoints = 1000) -> Curves:
        """The curated charts, each with what it tells and what is bad."""
        metrics, timings, position = run.records()
        drawn = curves(metrics, timings, max_points=max_points)
        return Curves(groups={**answers.GROUPS}, curves=drawn, position=position)

    @router.get("/runs/{run}/events", response_class=EventSourceResponse, responses=UNKNOWN_RUN)
    async def stream_events(
        run: KnownRun, request: Request, after: Position = None, last_event_id: LastEventId = None
    ) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events, without end: `run` when the run's line changes, `metrics` and `timings` for each new
        record, `replaced` where the records begin anew. It goes on after `Last-Event-ID`, else after `after`."""
        stopping = getattr(request.app.state, "stopping", lambda: False)
        async for event in events(run, last_event_id if last_event_id is not None else after, stopping):
            yield event

    @router.get("/runs/{run}/sources", responses=UNKNOWN_RUN)
    def get_sources(run: KnownRun, last_steps: LastSteps = 20) -> Sources:
        """What each feedback source did: answers, failures, latency, and how much its text teaches."""
        return Sources(steps=min(last_steps, len(run.steps())), items=run.sources(last_steps))


def _add_report(router: APIRouter) -> None:
    html: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The page."}
    }

    @router.get("/runs/{run}/report", response_class=Response, responses={**UNKNOWN_RUN, **html})
    def get_report(run: KnownRun) -> Response:
        """The run as one HTML file that needs nothing else: for a mail, an archive, a colleague."""
        page = report.html(run)
        headers = {
            "Content-Disposition": f'attachment; filename="{run.path.name}.html"',
            "Content-Security-Policy": report.POLICY,
        }
        return Response(page, media_type="text/html", headers=headers)
