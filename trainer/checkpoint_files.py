"""Where a run's checkpoints are and what their digests are; what is in them needs torch and is `checkpoint.py`.

One rank's is a file, `step_000010.pt`; that of several is a directory, `step_000010`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trainer.disk import steps_in

CHECKPOINTS = "checkpoints"
DIGESTS = "digests.json"


def checkpoint_file(directory: Path, step: int) -> Path:
    """The checkpoint of one rank after `step` steps."""
    return directory / f"step_{step:06d}.pt"


def checkpoint_directory(directory: Path, step: int) -> Path:
    """The checkpoint of divided weights after `step` steps."""
    return directory / f"step_{step:06d}"


def checkpoint_of(directory: Path, step: int) -> Path:
    """The checkpoint after `step` steps, of either kind."""
    several = checkpoint_directory(directory, step)
    return several if several.is_dir() else checkpoint_file(directory, step)


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return sorted({*steps_in(directory, ".pt"), *steps_in(directory, "")})


def checkpoint_digest(directory: Path, step: int) -> str:
    """The SHA-256 of a file, or of a directory's list of files with theirs."""
    found = checkpoint_of(directory, step)
    if not found.is_dir():
        return file_digest(found)
    files = sorted(file for file in found.iterdir() if file.name != DIGESTS)
    digests = json.dumps({file.name: file_digest(file) for file in files}, indent=1)
    return hashlib.sha256(digests.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
