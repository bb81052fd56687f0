"""Where a run's checkpoints are and what their digests are; what is in them needs torch and is `checkpoint.py`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainer.disk import steps_in

CHECKPOINTS = "checkpoints"


def checkpoint_file(directory: Path, step: int) -> Path:
    """The checkpoint after `step` steps."""
    return directory / f"step_{step:06d}.pt"


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return steps_in(directory, ".pt")


def file_digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
