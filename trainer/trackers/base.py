"""What a tracker is to the process that delivers to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trainer.trackers.rows import Row, TrackedRun

HTTP_TIMEOUT_S = 10.0


class Tracker(Protocol):
    """One tracker, for one run. Any exception of its methods is an outage: it is closed and opened again later."""

    def open(self, run: TrackedRun, next_step: int) -> int:
        """Find the run there, or begin it, where rows below `next_step` have been delivered.

        Returns the first step to send: a tracker that keeps files writes them anew, from 0.
        """

    def send(self, rows: Sequence[Row]) -> None:
        """Deliver; when it returns they are there. Rows that came before may come again, and must not count twice."""

    def close(self, *, finished: bool) -> None:
        """Let go; `finished` where the run is done and all of it was sent."""
