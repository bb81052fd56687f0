"""One run: everything that its files say, while they are written."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from services.dashboard.runs import queries
from services.dashboard.runs.queries import Group, GroupPage, RolloutPage, RolloutQuery
from services.dashboard.runs.records import TIMINGS, Records
from services.dashboard.runs.rows import Entry, Rollout, line
from services.dashboard.runs.sources import SourceFigures, figures
from services.dashboard.runs.step_files import StepFiles
from shared.errors import DataError
from shared.jsonl_tail import Record

State = Literal["running", "finished", "stopped"]
QUIET_S = 120.0
_QUIET_STEPS = 5
_WRITTEN = ("metrics.jsonl", "timings.jsonl", "trajectories", "batches", "run.json")

Item = TypeVar("Item", Entry, list[Entry])


class Identity(BaseModel):
    """run.json."""

    model_config = ConfigDict(extra="ignore")

    run_id: str = Field(examples=["demo-1a2b3c"])
    name: str = Field(examples=["demo"])
    seed: int = Field(examples=[1])
    algorithm: str = Field(examples=["vpd"])


class RunFiles:
    """A run directory. Every call reads what is new since the last one; calls may come from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._records = Records(path / "metrics.jsonl")
        self._timings = Records(path / "timings.jsonl", kind=TIMINGS)
        self._files = StepFiles(path / "trajectories")

    @property
    def identity(self) -> Identity:
        """Raises DataError where the directory holds no run."""
        try:
            return Identity.model_validate_json((self.path / "run.json").read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} holds no run: it has no readable run.json.") from error

    @property
    def settings(self) -> Record | None:
        """The resolved settings, as a tree."""
        return _json(self.path / "settings.json")

    @property
    def summary(self) -> Record | None:
        """What the run came to; None while it is not done."""
        return _json(self.path / "summary.json")

    def state(self, now: float | None = None) -> State:
        """finished: there is a summary. stopped: nothing was written for two minutes, or the time of five steps."""
        if (self.path / "summary.json").is_file():
            return "finished"
        quiet_s = (time.time() if now is None else now) - self.written_at
        longest_step_s = max((t.get("seconds/step") or 0.0 for t in self.timings()[-_QUIET_STEPS:]), default=0.0)
        return "running" if quiet_s < max(QUIET_S, _QUIET_STEPS * longest_step_s) else "stopped"

    @property
    def written_at(self) -> float:
        """When the learner wrote last, in seconds since 1970."""
        return max((mtime for name in _WRITTEN if (mtime := _mtime(self.path / name)) is not None), default=0.0)

    def metrics(self) -> list[Record]:
        """The records of metrics.jsonl in the order of their steps, the last of each kind and step."""
        with self._lock:
            return self._records.all()

    def timings(self) -> list[Record]:
        """The records of timings.jsonl in the order of their steps, the last of each step."""
        with self._lock:
            return self._timings.all()

    def records(self) -> tuple[list[Record], list[Record], str]:
        """Those of metrics.jsonl and of timings.jsonl, and the place up to which they were read (see `events.py`)."""
        with self._lock:
            metrics, timings = self._records.all(), self._timings.all()
            return metrics, timings, f"{self._records.position}-{self._timings.position}"

    def steps(self) -> list[int]:
        """The steps whose rollouts were written, in order."""
        return self._files.steps()

    def rollouts(self, query: RolloutQuery) -> RolloutPage:
        """A page of rollouts. Raises DataError for a cursor that is not of this list."""
        with self._lock:
            steps = queries.window(query, self.steps())
            found = list(self._matching(query, steps))
            ordered = sorted(found, key=lambda e: queries.place(e.reward, e.step, e.row, query.sort))
            places = [queries.place(e.reward, e.step, e.row, query.sort) for e in ordered]
            shown, cursor = _page(ordered, places, query, steps)
            lines = [line(e, r) for e, r in zip(shown, self._files.rollouts(shown), strict=True) if r is not None]
        return RolloutPage(items=lines, next_cursor=cursor, total=len(found), **_ends(steps))

    def groups(self, query: RolloutQuery) -> GroupPage:
        """A page of prompts of which a rollout matches, with all their rollouts; best and worst by their mean reward.

        Raises DataError for a cursor that is not of this list.
        """
        with self._lock:
            steps = queries.window(query, self.steps())
            matching: dict[tuple[int, str], int] = {}
            for one in self._matching(query, steps):
                matching[one.step, one.group_id] = matching.get((one.step, one.group_id), 0) + 1
            groups: dict[tuple[int, str], list[Entry]] = {key: [] for key in matching}
            for step in {step for step, _ in matching}:
                for one in self._files.entries(step):
                    if (step, one.group_id) in groups:
                        groups[step, one.group_id].append(one)
            placed = sorted(
                (queries.place(_mean_reward(rows), rows[0].step, rows[0].row, query.sort), rows)
                for rows in groups.values()
            )
            shown, cursor = _page([rows for _, rows in placed], [key for key, _ in placed], query, steps)
            items = [self._group(rows, matching[rows[0].step, rows[0].group_id]) for rows in shown]
        return GroupPage(items=items, next_cursor=cursor, total=len(groups), **_ends(steps))

    def rollout(self, trajectory_id: str, step: int | None = None) -> Rollout | None:
        """A rollout as it was trained on at `step`, or when it was first; None where it is not known."""
        found = self._trained_on(trajectory_id, self.steps() if step is None else [step])
        return next((rollout for entry in found for rollout in self._files.rollouts([entry])), None)

    def appearances(self, trajectory_id: str) -> list[int]:
        """The steps that trained on a rollout: one, and another for each critique of it that came late."""
        return [entry.step for entry in self._trained_on(trajectory_id, self.steps())]

    def _trained_on(self, trajectory_id: str, steps: Sequence[int]) -> Iterator[Entry]:
        first = _step_in(trajectory_id)
        for step in steps:
            if step >= first and self._files.holds(step, trajectory_id):
                with self._lock:
                    entries = self._files.entries(step)
                yield from (entry for entry in entries if entry.trajectory_id == trajectory_id)

    def siblings(self, step: int, group_id: str) -> list[Rollout]:
        """The rollouts of one prompt in a step, in the order they were sampled."""
        with self._lock:
            entries = [entry for entry in self._files.entries(step) if entry.group_id == group_id]
            return [rollout for rollout in self._files.rollouts(entries) if rollout is not None]

    def sources(self, last_steps: int | None = None) -> list[SourceFigures]:
        """What each source did in the last steps, or in all."""
        steps = self.steps()
        with self._lock:
            chosen = steps if last_steps is None else steps[-last_steps:]
            records = [record for record in self.metrics() if record["kind"] == "step" and record["step"] in chosen]
            return figures((entry for step in chosen for entry in self._files.entries(step)), records)

    def export(self, query: RolloutQuery) -> Iterator[Rollout]:
        """Every rollout of the window that matches, a step at a time, in the order they were trained on."""
        for step in queries.window(query, self.steps()):
            with self._lock:
                entries = list(self._matching(query, [step]))
                rollouts = self._files.rollouts(sorted(entries, key=lambda e: e.row))
            yield from (rollout for rollout in rollouts if rollout is not None)

    def _matching(self, query: RolloutQuery, steps: Sequence[int]) -> Iterator[Entry]:
        for step in steps:
            entries = [entry for entry in self._files.entries(step) if queries.matches(entry, query)]
            if query.search is None:
                yield from entries
                continue
            for entry, rollout in zip(entries, self._files.rollouts(entries), strict=True):
                if rollout is not None and queries.contains(rollout, query.search):
                    yield entry

    def _group(self, entries: Sequence[Entry], matching: int) -> Group:
        rows = [(e, r) for e, r in zip(entries, self._files.rollouts(entries), strict=True) if r is not None]
        lines = [line(entry, rollout) for entry, rollout in rows]
        return Group(
            group_id=entries[0].group_id,
            step=entries[0].step,
            task_id=entries[0].task_id,
            prompt=lines[0].prompt if lines else "",
            reward_mean=_mean_reward(entries),
            rollouts=lines,
            matching=matching,
        )


def _page(
    items: Sequence[Item], places: Sequence[queries.Key], query: RolloutQuery, steps: Sequence[int]
) -> tuple[list[Item], str | None]:
    start = queries.after(places, query)
    end = start + query.limit
    more = queries.encoded(query, steps, places[end - 1]) if end < len(items) else None
    return list(items[start:end]), more


def _ends(steps: Sequence[int]) -> dict[str, Any]:
    return {"from_step": steps[0] if steps else None, "to_step": steps[-1] if steps else None}


def _mean_reward(entries: Sequence[Entry]) -> float | None:
    known = [entry.reward for entry in entries if entry.reward is not None]
    return sum(known) / len(known) if known else None


def _step_in(trajectory_id: str) -> int:
    """The step whose prompts the rollout was sampled for: its id has it, and nothing trained on it before."""
    parts = trajectory_id.rsplit("-", 3)
    number = parts[1].removeprefix("s") if len(parts) == 4 else ""
    return int(number) if number.isascii() and number.isdecimal() else 0


def _json(path: Path) -> Record | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
