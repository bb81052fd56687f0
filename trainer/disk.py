"""Files that are whole or not there, and one sentence for a disk that takes no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from shared.errors import InfrastructureError


def write_atomically(file: Path, text: str) -> None:
    """Write beside, sync, rename: a reader sees the old file or the new one, never a part."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """Records of a JSONL file; a torn last line is left out."""
    records = []
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def steps_in(directory: Path, suffix: str) -> list[int]:
    """The steps that have a file `step_000012<suffix>`, in order; files of other names are somebody else's."""
    numbers = [file.name.removeprefix("step_").removesuffix(suffix) for file in directory.glob(f"step_*{suffix}")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def sync_directory(directory: Path) -> None:
    """Make the names of the files in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(error: OSError, path: Path) -> InfrastructureError:
    """One sentence for a disk that cannot be written."""
    return InfrastructureError(
        f"{path} cannot be written: {error.strerror or error}. Free some space or choose another run.dir; "
        "the run resumes from its last checkpoint."
    )
