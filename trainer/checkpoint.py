"""Checkpoints: one file a step, whole or not there; the newest that can be read is resumed from.

A file is written beside, synced and renamed: its name is the mark that it is complete. Its digest stands in the ledger.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import structlog
import torch

from trainer.checkpoint_files import checkpoint_file, checkpoint_steps, file_digest
from trainer.disk import disk_error, sync_directory

log = structlog.get_logger("checkpoint")
State = dict[str, Any]
# What zipfile, pickle and torch raise on bytes that are not what was written.
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile)


class Checkpoints:
    """`checkpoints/step_000010.pt` holds everything the learner needs to go on after 10 steps."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, state: State, *, best: int | None = None) -> str:
        """Durable when it returns; the file's SHA-256. The newest are kept, and that of step `best`.

        Raises InfrastructureError where the disk is full or read-only.
        """
        file = self._file(step)
        temporary = file.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                torch.save({"step": step, **state}, out)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
            sync_directory(self.directory)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            cause = _failed_write(error)
            if cause is None:
                raise
            raise disk_error(cause, file) from error
        # Newer files than this could not be read: left in place, they would push out those that can.
        kept = [other for other in self.steps() if other <= step][-self.keep :]
        for other in self.steps():
            if other not in kept and other != best:
                self._file(other).unlink()
        return self.digest(step)

    def digest(self, step: int) -> str:
        """The SHA-256 of a step's file."""
        return file_digest(self._file(step))

    def steps(self) -> list[int]:
        """The steps that have a file, in order."""
        return checkpoint_steps(self.directory)

    def load_newest(self, *, up_to: int | None = None) -> State | None:
        """The newest readable checkpoint (of step `up_to` or before), or None; a torn or corrupt one is skipped with a
        warning."""
        for step in reversed(self.steps()):
            if up_to is not None and step > up_to:
                continue
            file = self._file(step)
            try:
                return _read(file)
            except _UNREADABLE as error:
                log.warning("a checkpoint cannot be read and is skipped", file=str(file), error=str(error)[:200])
        return None

    def _file(self, step: int) -> Path:
        return checkpoint_file(self.directory, step)


def _read(file: Path) -> State:
    with zipfile.ZipFile(file) as archive:
        # torch itself verifies no checksum, and would hand out flipped bits as weights.
        if (member := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {member} does not match")
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _failed_write(error: BaseException | None) -> OSError | None:
    """The failed write behind what torch raises when it cannot finish its archive."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
