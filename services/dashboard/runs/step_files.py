"""trajectories/step_N.jsonl: an index of each file, made once, and its rows where they are wanted.

A file is written whole and renamed into place. A run that resumes writes the files of the steps it does again anew.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from services.dashboard.runs.rows import Entry, Rollout, entry, rollout_on
from shared.jsonl_tail import lines_with_offsets

KEPT_FILES = 1000
_NAME = re.compile(r"step_([0-9]{6,12})\.jsonl")

Signature = tuple[int, int, int]


class _Index(NamedTuple):
    signature: Signature
    entries: tuple[Entry, ...]


class StepFiles:
    """The rows of a run by step. The indexes of the files that were used last are kept."""

    def __init__(self, directory: Path, *, kept: int = KEPT_FILES) -> None:
        self._directory = directory
        self._kept = kept
        self._indexes: OrderedDict[int, _Index] = OrderedDict()

    def steps(self) -> list[int]:
        """The steps that have a file, in order."""
        try:
            names = [file.name for file in self._directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def entries(self, step: int) -> tuple[Entry, ...]:
        """The index of a step's file; empty where there is none."""
        path = self._path(step)
        known = self._indexes.get(step)
        try:
            if known is None or known.signature != _signature(path.stat()):
                known = _indexed(path, step)
        except FileNotFoundError:
            self._indexes.pop(step, None)
            return ()
        self._indexes[step] = known
        self._indexes.move_to_end(step)
        while len(self._indexes) > self._kept:
            self._indexes.popitem(last=False)
        return known.entries

    def rollouts(self, entries: Sequence[Entry]) -> list[Rollout | None]:
        """The rows of these entries; None for one whose file has been written anew without it."""
        by_step: dict[int, list[Entry]] = {}
        for one in entries:
            by_step.setdefault(one.step, []).append(one)
        found = {step: self._rows(step, wanted) for step, wanted in by_step.items()}
        return [found[one.step].get(one.row) for one in entries]

    def holds(self, step: int, trajectory_id: str) -> bool:
        """Whether a step's file may have a row of this trajectory, without reading more than its bytes."""
        try:
            return trajectory_id.encode() in self._path(step).read_bytes()
        except FileNotFoundError:
            return False

    def _rows(self, step: int, entries: Sequence[Entry]) -> dict[int, Rollout]:
        found = {}
        try:
            with self._path(step).open("rb") as file:
                for one in entries:
                    file.seek(one.offset)
                    rollout = rollout_on(file.read(one.length))
                    if rollout is not None and rollout.trajectory_id == one.trajectory_id:
                        found[one.row] = rollout
        except FileNotFoundError:
            return {}
        return found

    def _path(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}.jsonl"


def _indexed(path: Path, step: int) -> _Index:
    with path.open("rb") as file:
        signature = _signature(os.fstat(file.fileno()))
        data = file.read()
    entries: list[Entry] = []
    for offset, text in lines_with_offsets(data):
        rollout = rollout_on(text)
        if rollout is not None and rollout.step == step:
            entries.append(entry(rollout, len(entries), offset, len(text)))
    return _Index(signature, tuple(entries))


def _signature(stat: os.stat_result) -> Signature:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
