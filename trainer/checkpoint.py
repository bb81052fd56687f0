"""Checkpoints: one file a step, whole or not there; the newest that can be read is resumed from."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import structlog
import torch

from trainer.run_directory import disk_error

log = structlog.get_logger("checkpoint")
State = dict[str, Any]
# What zipfile, pickle and torch raise on bytes that are not what was written.
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile)


class Checkpoints:
    """`checkpoints/step_000010.pt` holds everything the learner needs to go on after 10 steps."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, step: int, state: State) -> None:
        """Durable when it returns. Raises InfrastructureError where the disk is full or read-only."""
        file = self._file(step)
        temporary = file.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                torch.save({"step": step, **state}, out)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
            _sync_directory(self.directory)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            cause = _failed_write(error)
            if cause is None:
                raise
            raise disk_error(cause, file) from error
        files = sorted(self.directory.glob("step_*.pt"))
        # Newer files than this could not be read: left in place, they would push out those that can.
        kept = [other for other in files if other <= file][-self.keep :]
        for other in files:
            if other not in kept:
                other.unlink()

    def load_newest(self) -> State | None:
        """The newest readable checkpoint, or None; a torn or corrupt one is skipped with a warning."""
        for file in sorted(self.directory.glob("step_*.pt"), reverse=True):
            try:
                return _read(file)
            except _UNREADABLE as error:
                log.warning("a checkpoint cannot be read and is skipped", file=str(file), error=str(error)[:200])
        return None

    def _file(self, step: int) -> Path:
        return self.directory / f"step_{step:06d}.pt"


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


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
