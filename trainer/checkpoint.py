"""Checkpoints: one a step, whole or not there; the newest that can be read is resumed from.

It is written beside, synced and renamed: its name is the mark that it is complete. Its digest stands in the ledger.
Weights that are divided over ranks are written as a directory (`sharded_checkpoint.py`), whole ones as a file; either
can be gone on from with any number of ranks.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import torch
from torch.distributed.checkpoint.api import CheckpointException

from shared.errors import DataError
from trainer import sharded_checkpoint
from trainer.checkpoint_files import (
    checkpoint_digest,
    checkpoint_directory,
    checkpoint_file,
    checkpoint_of,
    checkpoint_steps,
)
from trainer.disk import disk_error, sync_directory
from trainer.ranks import ALONE, Ranks
from trainer.sharding import divided

log = structlog.get_logger("checkpoint")
State = dict[str, Any]
# What zipfile, pickle and torch raise on bytes that are not what was written.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    CheckpointException,
)


class Checkpoints:
    """`checkpoints/step_000010.pt`, or `step_000010/` of divided weights, holds everything the learner needs to go on
    after 10 steps. All ranks call the methods together, rank 0 first."""

    def __init__(self, directory: Path, *, keep: int, ranks: Ranks = ALONE) -> None:
        self.directory = directory
        self.keep = keep
        self.ranks = ranks

    def save(self, step: int, state: State, *, best: int | None = None) -> str:
        """Durable when it returns; its SHA-256. The newest are kept, and that of step `best`.

        Raises InfrastructureError where the disk is full or read-only.
        """
        self.ranks.order("checkpoint", step)
        place = checkpoint_file if self.ranks.mesh is None else checkpoint_directory
        file = place(self.directory, step)
        temporary = file.with_suffix(".tmp")
        try:
            if self.ranks.leads:
                self.directory.mkdir(parents=True, exist_ok=True)
                _remove(temporary)
            self._write(temporary, {"step": step, **state})
            if not self.ranks.leads:
                return ""
            _remove(checkpoint_directory(self.directory, step))
            temporary.replace(file)
            sync_directory(self.directory)
        except (OSError, RuntimeError, CheckpointException) as error:
            with contextlib.suppress(OSError):
                _remove(temporary)
            cause = _failed_write(error)
            if cause is None:
                raise
            raise disk_error(cause, file) from error
        # Newer ones than this could not be read: left in place, they would push out those that can.
        kept = [other for other in self.steps() if other <= step][-self.keep :]
        for other in self.steps():
            if other not in kept and other != best:
                _remove(checkpoint_directory(self.directory, other))
                _remove(checkpoint_file(self.directory, other))
        return self.digest(step)

    def digest(self, step: int) -> str:
        """The SHA-256 of a step's checkpoint."""
        return checkpoint_digest(self.directory, step)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return checkpoint_steps(self.directory)

    def load_newest(self, *, up_to: int | None = None) -> State | None:
        """The newest readable checkpoint (of step `up_to` or before), or None; a torn or corrupt one is skipped with a
        warning. Weights and moments are divided over the ranks where these divide them."""
        self.ranks.order("restore", up_to)
        for step in reversed(self.ranks.gathered(self.steps())[0]):
            if up_to is not None and step > up_to:
                continue
            found = checkpoint_of(self.directory, step)
            state, reason = None, None
            try:
                state = self._read(found)
            except _UNREADABLE as error:
                reason = str(error)[:200]
            reasons = [why for why in self.ranks.gathered(reason) if why is not None]
            if not reasons:
                return state
            log.warning("a checkpoint cannot be read and is skipped", file=str(found), error=reasons[0])
        return None

    def _write(self, temporary: Path, state: State) -> None:
        if self.ranks.mesh is not None:
            if self.ranks.leads:
                temporary.mkdir()
            self.ranks.gathered(None)  # it is there
            sharded_checkpoint.write(temporary, state, self.ranks)
            return
        if not self.ranks.leads:
            return
        with temporary.open("wb") as out:
            torch.save(state, out)
            out.flush()
            os.fsync(out.fileno())

    def _read(self, found: Path) -> State:
        if found.is_dir():
            return sharded_checkpoint.read(found, self.ranks)
        state = _read(found)
        return state if self.ranks.mesh is None else divided(state, self.ranks)


@contextlib.contextmanager
def of_this_version(directory: Path) -> Iterator[None]:
    """Inside, the state of a checkpoint in `directory` is taken up. Raises DataError where something is not in it."""
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"The checkpoint in {directory} has no {error}: its run was begun with another version. Start the run anew "
            "(--fresh), or go on with the version that it was begun with."
        ) from error


def _read(file: Path) -> State:
    with zipfile.ZipFile(file) as archive:
        # torch itself verifies no checksum, and would hand out flipped bits as weights.
        if (member := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {member} does not match")
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _remove(place: Path) -> None:
    """A file or a directory, if it is there."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _failed_write(error: BaseException | None) -> OSError | None:
    """The failed write behind what torch raises when it cannot finish its archive, on this rank or another."""
    while error is not None and not isinstance(error, OSError):
        if isinstance(error, CheckpointException):
            error = next(iter(error.failures.values()))[0]
        else:
            error = error.__cause__ or error.__context__
    return error
