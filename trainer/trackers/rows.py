"""What trackers are sent: a row a training step, read off a run's files while they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.jsonl_tail import JsonlTail

_KEYS_OF_THE_LINE = ("kind", "step", "steps")


@dataclass(frozen=True)
class Row:
    """The figures of training step `step`, and those of the policy before it (`evaluation/...`, `gate/...`).

    `time` is when it was, in seconds since 1970: the same at each reading.
    """

    step: int
    time: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """A run as its directory has it."""

    path: Path
    run_id: str
    settings: Mapping[str, Any]
    """By dotted name; without secrets."""
    started: float

    @classmethod
    def of(cls, path: Path) -> TrackedRun:
        """Raises OSError or ValueError where the directory is no run's."""
        identity = path / "run.json"
        settings = json.loads((path / "settings.json").read_text(encoding="utf-8"))
        run_id = json.loads(identity.read_text(encoding="utf-8"))["run_id"]
        return cls(path, run_id, dict(_flat(settings)), identity.stat().st_mtime)

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").exists()


class RowReader:
    """Reads a run's rows from step `first` on, each once and in order.

    A step that a resumed run does again is the same row (to the last bit in lockstep), so the first reading counts.
    """

    def __init__(self, run: TrackedRun, first: int = 0) -> None:
        self.next_step = first
        self._run = run
        self._metrics = JsonlTail(run.path / "metrics.jsonl")
        self._timings = JsonlTail(run.path / "timings.jsonl")
        self._figures: dict[int, dict[str, float]] = {}
        self._wall_s: dict[int, float] = {}
        self._last_wall_s = 0.0

    def read(self, *, ended: bool = False) -> list[Row]:
        """The rows that became whole. A row is whole with its step's record; once the run has `ended`, so is the last,
        which is an evaluation alone."""
        # Metrics before timings: the learner writes them the other way round, so that no step lacks its times.
        records, timings = self._metrics.read().records, self._timings.read().records
        for times in timings:
            self._wall_s[times["step"]] = times["wall_s"]
            self._take(times["step"], "", times)
        whole: list[Row] = []
        for record in records:
            prefix = "" if record["kind"] == "step" else f"{record['kind']}/"
            self._take(record["step"], prefix, record)
            if record["kind"] == "step":
                whole += self._row(record["step"])
        if ended:
            for step in sorted(self._figures):
                whole += self._row(step)
        return whole

    def _take(self, step: int, prefix: str, record: Mapping[str, Any]) -> None:
        if step >= self.next_step:
            self._figures.setdefault(step, {}).update(_figures(record, prefix))

    def _row(self, step: int) -> Iterator[Row]:
        figures = self._figures.pop(step, {})
        self._last_wall_s = self._wall_s.pop(step, self._last_wall_s)
        if step >= self.next_step and figures:
            self.next_step = step + 1
            yield Row(step, self._run.started + self._last_wall_s, figures)


def _figures(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name not in _KEYS_OF_THE_LINE and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
