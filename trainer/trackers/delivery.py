"""Delivering a run's rows to its trackers, each in a thread of its own: one that hangs holds up no other.

What has been delivered stands in the run's `tracking.json`. It is written after the rows were taken, so a process that
is killed in between sends some of them again, which no tracker counts twice (`base.py`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.errors import VPDError
from shared.settings import TrackingSettings
from trainer.disk import write_atomically
from trainer.trackers.base import Tracker
from trainer.trackers.choice import Chosen, chosen_trackers
from trainer.trackers.rows import Row, RowReader, TrackedRun

FILE = "tracking.json"
ROWS_A_CALL = 200
_PROBLEM_CHARS = 300
_POLL_S = 1.0
_LOOK_S = 0.02
_LONGEST_RETRY_S = 30.0
_RETRY_AT_THE_END_S = 0.5


class Delivered:
    """tracking.json: by tracker, where it is, the first step it lacks, and what it lacked when the run ended."""

    def __init__(self, run: Path) -> None:
        self._file = run / FILE
        self._lock = threading.Lock()
        try:
            self._trackers: dict[str, dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._trackers = {}

    def next_step(self, one: Chosen) -> int:
        """The first step that the tracker lacks; 0 where it is another than the last time."""
        known = self._trackers.get(one.name, {})
        return int(known["next_step"]) if known.get("to") == one.to else 0

    def note(self, one: Chosen, next_step: int, lacks: str | None = None) -> None:
        """Rows below `next_step` are there; `lacks` is a sentence for people where a run ended without the rest."""
        with self._lock:
            self._trackers[one.name] = {"to": one.to, "next_step": next_step, "lacks": lacks}
            write_atomically(self._file, json.dumps(self._trackers, indent=1))


def undelivered(run: Path) -> list[str]:
    """What trackers lacked when the run at `run` last ended: a sentence each."""
    try:
        trackers = json.loads((run / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [one["lacks"] for one in trackers.values() if one["lacks"]]


class Delivery(threading.Thread):
    """Delivers to one tracker until `ended` is set and all is there."""

    def __init__(self, run: TrackedRun, one: Chosen, delivered: Delivered, ended: threading.Event) -> None:
        super().__init__(name=one.name, daemon=True)
        self.one = one
        self.problem: str | None = None
        self.next_step = delivered.next_step(one)
        self.complete = False
        self._run, self._delivered, self._ended = run, delivered, ended

    def run(self) -> None:
        """Whatever a tracker's package raises is an outage of it, and ends with it."""
        retry_s = _POLL_S
        while not self.complete:
            before = self.next_step
            try:
                self._deliver()
            except Exception as error:  # noqa: BLE001  unforeseen errors of four packages must not end the others
                self.problem = _one_line(error)
                retry_s = _POLL_S if self.next_step > before else min(2 * retry_s, _LONGEST_RETRY_S)
                # Set, the event would not let it wait.
                time.sleep(_RETRY_AT_THE_END_S) if self._ended.is_set() else self._ended.wait(retry_s)

    def _deliver(self) -> None:
        tracker = self.one.make()
        reader = RowReader(self._run, tracker.open(self._run, self.next_step))
        while True:
            # Asked before reading: what was written before the end is then read.
            ended = self._ended.is_set()
            finished = ended and self._run.finished
            self._send(tracker, reader.read(ended=finished))
            self.problem = None
            if ended:
                break
            self._ended.wait(_POLL_S)
        tracker.close(finished=finished)
        self._delivered.note(self.one, self.next_step)
        self.complete = True

    def _send(self, tracker: Tracker, rows: Sequence[Row]) -> None:
        for first in range(0, len(rows), ROWS_A_CALL):
            some = rows[first : first + ROWS_A_CALL]
            tracker.send(some)
            self.next_step = max(self.next_step, some[-1].step + 1)
            self._delivered.note(self.one, self.next_step)


def _one_line(error: Exception) -> str:
    text = str(error) if isinstance(error, VPDError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_PROBLEM_CHARS].rstrip(".")


class Deliveries:
    """All of a run's, from their start on."""

    def __init__(self, run: TrackedRun, tracking: TrackingSettings) -> None:
        self.ended = threading.Event()
        self._run = run
        self._delivered = Delivered(run.path)
        self._threads = [Delivery(run, one, self._delivered, self.ended) for one in chosen_trackers(tracking)]
        for thread in self._threads:
            thread.start()

    def finish(self, limit_s: float, *, patient: bool = True) -> list[str]:
        """The run has ended: deliver the rest, for at most `limit_s`, or where not `patient` for as long since the last
        row and until a tracker fails.

        Returns a sentence for each tracker that lacks something.
        """
        self.ended.set()
        deadline = time.monotonic() + limit_s
        there = self._there()
        while time.monotonic() < deadline and (rest := [one for one in self._threads if not one.complete]):
            if not patient:
                if all(one.problem for one in rest):
                    break
                if there != (there := self._there()):
                    deadline = time.monotonic() + limit_s
            time.sleep(_LOOK_S)
        return [self._lacks(one) for one in self._threads if not one.complete]

    def _there(self) -> list[int]:
        return [one.next_step for one in self._threads]

    def _lacks(self, one: Delivery) -> str:
        sentence = (
            f"Not delivered to {one.one.name} from step {one.next_step} on: {one.problem or 'no answer in time'}. "
            f"`vpd track {self._run.path}` sends what is missing."
        )
        self._delivered.note(one.one, one.next_step, sentence)
        return sentence
