"""`vpd explain`: the story of one rollout, from what was asked to what training made of it.

What the rollout was, who said what and how the teacher took it stand in the run's `trajectories/`; which steps count it
in the ledger; what became of people's critiques at human-feedback's database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.plain import plain
from cli.rollouts import said_head, said_words
from services.dashboard.runs import Rollout, RolloutQuery, RunFiles, RunsFolder
from shared.errors import DataError, SettingsError, VPDError
from shared.protocol import CritiqueState
from trainer.ledger import counted_steps, read_ledger

_NAMED = 5
"""Ids that an ambiguous part is answered with; tokens that are named as most raised, and as most lowered."""
_CLEAR_NATS, _STRONG_NATS = 0.1, 1.0


@dataclass(frozen=True)
class Story:
    """A rollout as each step trained on it, in order; the steps whose ledger line counts its group; what people wrote
    about it, or the sentence that says why that is not known."""

    run_id: str
    rows: list[Rollout]
    counted: list[int]
    critiques: list[CritiqueState] = field(default_factory=list)
    unread: str | None = None


def main(path: Path, trajectory: str, *, as_json: bool) -> int:
    """Print the story of a rollout of the run in `path`. Raises SettingsError where there is no such rollout."""
    found = story(path, trajectory)
    if as_json:
        rows = [row.model_dump(mode="json") for row in found.rows]
        critiques = [state.model_dump(mode="json") for state in found.critiques]
        told = {"run": found.run_id, "rows": rows, "counted": found.counted, "critiques": critiques}
        print(json.dumps(told, indent=1))
    else:
        console = Console(highlight=False)
        for part in _parts(found):
            console.print(part)
    return 0


def story(path: Path, trajectory: str) -> Story:
    """Raises SettingsError where no rollout's id has `trajectory` in it, or more than one."""
    files = RunFiles(path)
    entries = read_ledger(path / "ledger.jsonl").entries
    rows = _rows(files, trajectory) or _rows(files, _the_one(files, trajectory, entries))
    counted = [step for step, groups in counted_steps(entries).items() if rows[0].group_id in groups]
    run_id, place = files.identity.run_id, str(((files.settings or {}).get("human_feedback") or {}).get("database", ""))
    if "://" not in place and not Path(place).is_file():
        return Story(run_id, rows, counted)
    try:
        return Story(run_id, rows, counted, asyncio.run(_critiques(place, rows[0].trajectory_id)))
    except VPDError as error:
        return Story(run_id, rows, counted, unread=str(error))


def run_of(runs: Path, trajectory: str) -> Path | None:
    """The run below a folder whose id the rollout's begins with; else the one that was written last."""
    names = RunsFolder(runs).names()
    for name in names:
        with contextlib.suppress(DataError):
            if trajectory.startswith(f"{RunFiles(runs / name).identity.run_id}-"):
                return runs / name
    return runs / names[0] if names else None


def _rows(files: RunFiles, trajectory_id: str) -> list[Rollout]:
    rows = [files.rollout(trajectory_id, step) for step in files.appearances(trajectory_id)]
    return [row for row in rows if row is not None]


def _the_one(files: RunFiles, wanted: str, entries: Sequence[dict[str, Any]]) -> str:
    """The only id that `wanted` is a part of."""
    found = sorted({one for one in _ids(files) if wanted in one})
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
        raise SettingsError(f"{wanted} is a part of {len(found)} rollouts' ids ({shown}): give more of it.")
    group_id = wanted.rpartition("-r")[0]
    for entry in entries:
        if entry["kind"] == "dropped" and entry["group_id"] == group_id:
            why = f"its group was dropped at step {entry['step']}, {entry['reason']}"
            raise SettingsError(f"{wanted} was never trained on: {why}.")
    raise SettingsError(f"No rollout of the run in {files.path} has {wanted} in its id: `vpd rollouts` lists them.")


def _ids(files: RunFiles) -> Iterator[str]:
    query = RolloutQuery(from_step=0, limit=200)
    while True:
        page = files.rollouts(query)
        yield from (line.trajectory_id for line in page.items)
        if page.next_cursor is None:
            return
        query = query.model_copy(update={"cursor": page.next_cursor})


async def _critiques(place: str, trajectory_id: str) -> list[CritiqueState]:
    """What people wrote about a rollout, from human-feedback's database."""
    from services.human_feedback.critiques import of_rollouts
    from services.human_feedback.database import Database

    database = Database(place)
    try:
        await database.open(lambda _: None)
        return (await database.run(lambda db: of_rollouts(db, [trajectory_id])))[trajectory_id]
    finally:
        await database.close()


# ---------------------------------------------------------------------------------------------------- what is printed


def _parts(found: Story) -> Iterator[RenderableType]:
    first = found.rows[0]
    yield plain(first.trajectory_id, style="bold")
    yield plain(", ".join(_facts(first)))
    several = len(first.prompt) > 1
    asked = [f"{message.role}: {message.content}" if several else message.content for message in first.prompt]
    yield _panel("asked", plain("\n".join(asked)))
    yield _panel("answered", plain(first.response))
    # The last row has everything that was said until then, late critiques included.
    for said in found.rows[-1].feedback:
        yield said_head(said)
        if words := said_words(said):
            yield Padding(plain(words), (0, 0, 0, 2))
    for row in found.rows:
        yield from _training(row, counted=row.late or row.step in found.counted)
    if found.unread is not None:
        yield plain(f"What became of people's critiques is not known: {found.unread}", style="yellow")
    for state in found.critiques:
        yield plain(f"{state.identifier}'s critique: {fate(state)}", style="bold")
        yield Padding(plain(state.critique.text), (0, 0, 0, 2))


def _facts(row: Rollout) -> Iterator[str]:
    outcome = {True: "success", False: "failure", None: "no outcome"}[row.success]
    yield f"task {row.task_id}"
    yield f"by policy version {row.policy_version}"
    yield f"{outcome}, reward {row.reward:.2f}" if row.reward is not None else outcome
    yield f"{row.tokens} tokens" + (", cut at the longest length" if row.truncated else "")


def fate(state: CritiqueState) -> str:
    """What became of a critique."""
    if state.status == "used":
        return f"used at step {state.step}, which made policy version {state.policy_version}"
    if state.status == "stale":
        return f"not used: {state.reason or 'it came too late'} (step {state.step})"
    return "queued for the next step"


def _training(row: Rollout, *, counted: bool) -> Iterator[RenderableType]:
    """What a step made of it."""
    again = " again, for a critique that came late" if row.late else ""
    ledger = "" if counted else " (the ledger does not count it)"
    yield plain(f"step {row.step} trained on it{again}{ledger}", style="bold")
    if row.m_step_teacher_prompt is None:
        yield Text("  The teacher had nothing to tell it: no M-step prompt.")
    else:
        cut = f", {row.feedback_chars_cut} characters of feedback cut" if row.feedback_chars_cut else ""
        yield _panel(f"the teacher's prompt, with {_informed_by(row)}{cut}", plain(row.m_step_teacher_prompt))
    tokens = lifted_tokens(row)
    if tokens is None:
        yield Text("  No teacher scored it.")
        return
    whole = sum(nats for _, nats in tokens)
    moved = f"{'raised' if whole >= 0 else 'lowered'} by the teacher by {abs(whole):.2f} nats"
    yield _panel(f"the answer, {moved}", _coloured(tokens))
    yield _extremes(tokens)


def _informed_by(row: Rollout) -> str:
    if row.feedback_in_prompt is None:
        return "sources that were not recorded"
    return f"words of {', '.join(row.feedback_in_prompt)}" if row.feedback_in_prompt else "a sibling's solution"


def lifted_tokens(row: Rollout) -> list[tuple[str, float]] | None:
    """The response's tokens, each with its log q - log pi in nats; None where no teacher scored the row.

    Tokens that are parts of one character are one here, and their lifts are summed.
    """
    if row.token_lift is None or row.token_ends is None:
        return None
    found: list[tuple[str, float]] = []
    start = 0
    last = len(row.token_ends) - 1
    for i, (end, lift) in enumerate(zip(row.token_ends, row.token_lift, strict=False)):
        text, start = row.response[start:end], end
        ends_it = i == last and row.finish_reason == "stop"
        if text or ends_it or not found:
            found.append((text, lift or 0.0))
        else:
            found[-1] = (found[-1][0], found[-1][1] + (lift or 0.0))
    return found


def _coloured(tokens: Sequence[tuple[str, float]]) -> Text:
    """Green where the teacher raised a token, red where it lowered it, bold from a nat on."""
    shown = Text()
    for text, nats in tokens:
        colour = "" if abs(nats) < _CLEAR_NATS else "green" if nats > 0 else "red"
        shown.append_text(plain(text, style=f"{'bold ' if abs(nats) >= _STRONG_NATS else ''}{colour}".strip()))
    return shown


def _extremes(tokens: Sequence[tuple[str, float]]) -> Table:
    by_nats = sorted((nats, text) for text, nats in tokens if nats)
    lowered, raised = [t for t in by_nats if t[0] < 0][:_NAMED], [t for t in reversed(by_nats) if t[0] > 0][:_NAMED]
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for name in ("most raised", "most lowered"):
        table.add_column("nats", justify="right", no_wrap=True)
        table.add_column(name, max_width=26)
    for i in range(max(len(raised), len(lowered))):
        table.add_row(*_cells(raised, i), *_cells(lowered, i))
    return table


def _cells(tokens: Sequence[tuple[float, str]], i: int) -> tuple[str, Text]:
    if i >= len(tokens):
        return "", Text()
    nats, text = tokens[i]
    named = plain(json.dumps(text, ensure_ascii=False) if text else "(the end)")
    named.no_wrap, named.overflow = True, "ellipsis"
    return f"{nats:+.2f}", named


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=plain(title), title_align="left", border_style="dim")
