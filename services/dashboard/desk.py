"""What the routes share: the runs, and what they read from requests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from services.dashboard.runs import RunFiles, RunsFolder
from services.dashboard.runs.folder import NAME
from shared.problems import Problem
from shared.protocol import Identifier

RunName = Annotated[str, Path(pattern=NAME, examples=["demo"])]
Step = Annotated[int, Path(ge=0, lt=10**12, examples=[3])]
StepAt = Annotated[int | None, Query(ge=0, lt=10**12, description="The training step; default: its first.")]
TrajectoryId = Annotated[Identifier, Path(examples=["demo-1a2b3c-s000003-g000-r00"])]
GroupId = Annotated[Identifier, Path(examples=["demo-1a2b3c-s000003-g000"])]


def found(folder: RunsFolder, name: str) -> RunFiles:
    """The run of this name. Raises Problem 404."""
    run = folder.run(name)
    if run is None:
        raise Problem(404, "Not Found", f"There is no run {name!r} in the runs folder.", field="run")
    return run


def _known(request: Request, run: RunName) -> RunFiles:
    return found(request.app.state.folder, run)


KnownRun = Annotated[RunFiles, Depends(_known)]
"""The run that a path names; it is found before the answer begins."""


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """Answers of a route that are problem documents, by status (`s404="..."`), for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    content = {"application/problem+json": {"schema": schema}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in described.items()}


UNKNOWN_RUN = problems(s404="There is no such run.")
