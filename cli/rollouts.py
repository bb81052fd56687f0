"""`vpd rollouts`: a run's rollouts in a table, and the first of them with what was asked, answered and said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.plain import one_line, plain
from services.dashboard.runs import Rollout, RolloutLine, RolloutPage, RolloutQuery, RunFiles, Said
from services.dashboard.runs.queries import Sort
from shared.errors import SettingsError

_PAGE = 200
_IN_DETAIL = 3
_STATUS = {"ok": "said", "abstain": "abstained", "error": "failed", "timeout": "timed out"}
_ASKED_LINES, _ANSWERED_LINES, _SAID_LINES = 6, 12, 6


@dataclass(frozen=True)
class Wanted:
    """Which rollouts, in which order; `limit` at most."""

    sort: Sort
    source: str | None
    step: int | None
    task: str | None
    search: str | None
    truncated: bool
    limit: int


@dataclass(frozen=True)
class Found:
    """The rollouts that are shown, of `total` that match in the steps `first` to `last`."""

    lines: list[RolloutLine]
    total: int
    first: int | None
    last: int | None


def main(path: Path, wanted: Wanted, *, as_json: bool) -> int:
    """Print the rollouts of the run in `path`. Raises SettingsError for a step or a source that is not there."""
    files = RunFiles(path)
    found = find(files, wanted)
    if as_json:
        rows = [row.model_dump(mode="json") for row in _whole(files, found.lines)]
        print(json.dumps({"run": files.identity.run_id, "total": found.total, "rollouts": rows}, indent=1))
    else:
        console = Console(highlight=False)
        for part in _parts(files, found):
            console.print(part)
    return 0


def find(files: RunFiles, wanted: Wanted) -> Found:
    """Raises SettingsError where there are no rollouts yet, or no such step or source."""
    steps = files.steps()
    if not steps:
        raise SettingsError(f"The run in {files.path} has no rollouts yet: its first step is not done.")
    if wanted.step is not None and wanted.step not in steps:
        raise SettingsError(
            f"--step {wanted.step}: the run in {files.path} has rollouts of steps {steps[0]} to {steps[-1]}."
        )
    query = _query(wanted)
    lines: list[RolloutLine] = []
    total, page = 0, None
    for page in _pages(files, query):
        fitting = [line for line in page.items if wanted.task is None or wanted.task in line.task_id]
        lines += fitting[: wanted.limit - len(lines)]
        total = page.total if wanted.task is None else total + len(fitting)
        if wanted.task is None and len(lines) == wanted.limit:
            break
    if not lines and wanted.source is not None:
        _check_source(files, wanted.source)
    assert page is not None
    return Found(lines, total, page.from_step, page.to_step)


def _query(wanted: Wanted) -> RolloutQuery:
    try:
        return RolloutQuery(
            sort=wanted.sort,
            source=wanted.source,
            truncated=True if wanted.truncated else None,
            search=wanted.search,
            from_step=wanted.step,
            to_step=wanted.step,
            limit=_PAGE if wanted.task is not None else min(wanted.limit, _PAGE),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"--{first['loc'][0]}: {first['msg'].lower()}.") from error


def _pages(files: RunFiles, query: RolloutQuery) -> Iterator[RolloutPage]:
    while True:
        page = files.rollouts(query)
        yield page
        if page.next_cursor is None:
            return
        query = query.model_copy(update={"cursor": page.next_cursor})


def _check_source(files: RunFiles, source: str) -> None:
    known = [figures.name for figures in files.sources()]
    if source not in known:
        names = ", ".join(sorted(known)) or "none"
        raise SettingsError(f"--source {source}: no such source has answered in {files.path} (have: {names}).")


def _whole(files: RunFiles, lines: list[RolloutLine]) -> list[Rollout]:
    rows = [files.rollout(line.trajectory_id, line.step) for line in lines]
    return [row for row in rows if row is not None]


# ---------------------------------------------------------------------------------------------------- what is printed


def _parts(files: RunFiles, found: Found) -> Iterator[RenderableType]:
    where = f"{files.path}, steps {found.first} to {found.last}"
    if not found.lines:
        yield Text(f"No rollout matches ({where}).")
        return
    yield Text(f"{len(found.lines)} of {found.total} rollouts ({where})")
    run_id = files.identity.run_id
    yield _table(found.lines, run_id)
    for rollout in _whole(files, found.lines[:_IN_DETAIL]):
        yield _detail(rollout)
    one = short_id(found.lines[0].trajectory_id, run_id)
    yield Text(f"The whole story of one: vpd explain {one} --run {files.path}")


def _table(lines: list[RolloutLine], run_id: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rollout", "reward", "lift", "tokens"):
        table.add_column(name, no_wrap=True, justify="left" if name == "rollout" else "right")
    table.add_column("said by", max_width=14)
    table.add_column("answer", ratio=1)
    for line in lines:
        answered = [one for one in line.feedback if one.status != "abstain"]
        said = ", ".join(one.name if one.status == "ok" else f"{one.name} ({one.status})" for one in answered)
        cut = "+" if line.truncated else ""
        table.add_row(
            plain(short_id(line.trajectory_id, run_id) + (" late" if line.late else "")),
            _figure(line.reward, ".2f"),
            _figure(line.lift_nats, "+.2f"),
            f"{line.tokens}{cut}",
            one_line(said or "nobody"),
            one_line(line.response),
        )
    return table


def _detail(rollout: Rollout) -> Panel:
    asked = rollout.prompt[-1].content if rollout.prompt else ""
    parts: list[RenderableType] = [
        Text("asked", style="dim"),
        plain(asked, lines=_ASKED_LINES),
        Text("answered", style="dim"),
        plain(rollout.response, lines=_ANSWERED_LINES),
    ]
    for said in rollout.feedback:
        parts += [said_head(said), *([plain(words, lines=_SAID_LINES)] if (words := said_words(said)) else [])]
    title = plain(f"{rollout.trajectory_id} · {rollout.task_id}")
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def said_head(said: Said) -> Text:
    """Who answered, and what outcome."""
    outcome = [] if said.success is None else ["success" if said.success else "failure"]
    reward = [] if said.reward is None else [f"reward {said.reward:.2f}"]
    took = [] if said.latency_ms is None else [f"{said.latency_ms:.0f} ms"]
    return plain(", ".join([f"{said.source.name} {_STATUS[said.status]}", *outcome, *reward, *took]), style="dim")


def said_words(said: Said) -> str | None:
    """What it said, or why it did not; None where it gave no words."""
    return said.error.message if said.error is not None and said.error.message else said.text


def short_id(trajectory_id: str, run_id: str) -> str:
    """The id without that of the run."""
    return trajectory_id.removeprefix(f"{run_id}-")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
