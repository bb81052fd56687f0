"""Event files for TensorBoard, in `tensorboard/` of the run's directory.

A process writes them anew, since they are quick to write and two files would show a step twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from trainer.trackers.rows import Row, TrackedRun


class TensorBoard:
    """See trainer.trackers.base.Tracker."""

    def open(self, run: TrackedRun, next_step: int) -> int:
        directory = run.path / "tensorboard"
        for old in directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(directory))
        # Has a TensorBoard that is open drop what it read off the file before.
        self._writer.add_event(Event(wall_time=run.started, step=0, session_log=SessionLog(status=SessionLog.START)))
        text = "    " + json.dumps(run.settings, indent=2).replace("\n", "\n    ")  # indented: Markdown for code
        value = Summary.Value(
            tag="settings", metadata=create_summary_metadata("settings", ""), tensor=make_tensor_proto([text])
        )
        self._add(0, run.started, [value])
        return 0

    def send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._add(row.step, row.time, [Summary.Value(tag=k, simple_value=v) for k, v in row.figures.items()])
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        self._writer.close()

    def _add(self, step: int, time: float, values: list[Summary.Value]) -> None:
        self._writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=values)))
