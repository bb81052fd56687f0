"""What each step was trained on, exactly: written before the step, read to do it again after a crash, or to replay.

`batches/step_000012.zz` is a StepBatch as deflated JSON: every token id and log-prob, feedback, late critique joined. A
file that is in place is whole; its digest stands in the ledger.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from shared.errors import DataError
from shared.protocol import RolloutGroup, Wire
from trainer.disk import disk_error, steps_in, sync_directory

log = structlog.get_logger("batches")


class LateRow(Wire):
    """A trajectory of an earlier step, in its group, that a person has written about since."""

    group: RolloutGroup
    trajectory_id: str


class StepBatch(Wire):
    """The groups of training step `step` (0-based), critiques included, and the late rows trained on beside them."""

    step: int
    groups: list[RolloutGroup]
    late: list[LateRow] = Field(default_factory=list)

    @property
    def late_rows(self) -> list[tuple[RolloutGroup, str]]:
        return [(row.group, row.trajectory_id) for row in self.late]


class BatchStore:
    """The batches of one run, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, batch: StepBatch) -> str:
        """Durable when it returns; the SHA-256 of the file. Raises InfrastructureError where the disk is full."""
        body = zlib.compress(batch.model_dump_json().encode(), level=1)
        file = self._file(batch.step)
        temporary = file.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                out.write(body)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
            sync_directory(self.directory)
        except OSError as error:
            raise disk_error(error, file) from error
        return hashlib.sha256(body).hexdigest()

    def read(self, step: int) -> StepBatch | None:
        """The batch of a step, or None where there is none. Raises DataError where the file is damaged."""
        body = self._body(step)
        if body is None:
            return None
        try:
            batch = StepBatch.model_validate_json(zlib.decompress(body))
        except (zlib.error, ValidationError) as error:
            raise DataError(f"{self._file(step)} is damaged: {str(error).splitlines()[0]}") from error
        if batch.step != step:
            raise DataError(f"{self._file(step)} holds the batch of step {batch.step}")
        return batch

    def from_step(self, step: int) -> Iterator[StepBatch]:
        """The batches of `step` and after, up to the first that is missing or damaged; that one costs a warning."""
        while True:
            try:
                batch = self.read(step)
            except DataError as error:
                log.warning("a stored batch cannot be read; its step is sampled anew", step=step, error=str(error))
                return
            if batch is None:
                return
            yield batch
            step += 1

    def read_if_whole(self, step: int) -> StepBatch | None:
        """The batch of a step, or None where there is none that can be read."""
        try:
            return self.read(step)
        except DataError:
            return None

    def digest(self, step: int) -> str | None:
        """The SHA-256 of a step's file, or None where there is none."""
        body = self._body(step)
        return None if body is None else hashlib.sha256(body).hexdigest()

    def steps(self) -> list[int]:
        """The steps that have a file, in order."""
        return steps_in(self.directory, ".zz")

    def forget_before(self, step: int) -> None:
        """Delete the batches of the steps before `step`."""
        for stored in self.steps():
            if stored < step:
                self._file(stored).unlink(missing_ok=True)

    def forget_from(self, step: int) -> None:
        """Delete the batches of `step` and after: they belong to steps that are sampled anew."""
        for stored in self.steps():
            if stored >= step:
                self._file(stored).unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self.directory / f"step_{step:06d}.zz"

    def _body(self, step: int) -> bytes | None:
        try:
            return self._file(step).read_bytes()
        except FileNotFoundError:
            return None
