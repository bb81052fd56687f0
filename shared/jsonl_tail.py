"""Reading a JSONL file on which somebody else is writing: only what is new, and never half a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic_core import from_json

Record = dict[str, Any]
_REMEMBERED_BYTES = 64


class Read(NamedTuple):
    """What one reading found. `replaced`: the file is another one now, and `records` begin at its start."""

    records: list[Record]
    replaced: bool


class JsonlTail:
    """Reads the records that a JSONL file has got since the last reading.

    A last line without its end waits. A file that was replaced, or cut, is read anew: a run that resumes writes its
    records anew, without those of the steps that it does again.
    """

    def __init__(self, path: Path, position: str | None = None) -> None:
        """`position`: where an earlier reader of this file was; another file than its is read from its start."""
        self._path = path
        self._inode, self._offset = _parsed(position)
        self._end = b""
        """The last bytes that were read. An inode can be used again: a file that lacks them is another."""

    @property
    def position(self) -> str:
        """Where this reader is; a reader in another process may go on from there."""
        return f"{self._inode}.{self._offset}"

    def read(self) -> Read:
        """The new records; lines that hold none are skipped."""
        try:
            with self._path.open("rb") as file:
                replaced = self._replaced(file)
                if replaced or self._inode == 0:
                    self._inode, self._offset, self._end = os.fstat(file.fileno()).st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            replaced = self._inode != 0
            self._inode, self._offset, self._end = 0, 0, b""
            return Read([], replaced)
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._end = (self._end + whole[-_REMEMBERED_BYTES:])[-_REMEMBERED_BYTES:]
        return Read([record for line in whole.splitlines() if (record := parsed(line)) is not None], replaced)

    def _replaced(self, file: IO[bytes]) -> bool:
        if self._inode == 0:
            return False
        stat = os.fstat(file.fileno())
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            return True
        file.seek(self._offset - len(self._end))
        return file.read(len(self._end)) != self._end


def parsed(line: bytes) -> Record | None:
    """The JSON object on a line, None where there is none."""
    try:
        value = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def lines_with_offsets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file's content, each with the byte where it begins."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield start, data[start:end]
        start = end + 1


def _parsed(position: str | None) -> tuple[int, int]:
    inode, _, offset = (position or "0.0").partition(".")
    known = inode.isdecimal() and offset.isdecimal() and len(inode) < 25 and len(offset) < 20
    return (int(inode), int(offset)) if known else (0, 0)
