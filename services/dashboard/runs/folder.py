"""The runs below a folder, each opened once."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path

from services.dashboard.runs.run_files import RunFiles

KEPT_RUNS = 32
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$"
"""A run's name; one that was moved aside has a number more."""


class RunsFolder:
    """`run.dir`. What was read of the runs that were asked for last is kept."""

    def __init__(self, path: Path, *, kept: int = KEPT_RUNS) -> None:
        self.path = path
        self._kept = kept
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, RunFiles] = OrderedDict()

    def names(self) -> list[str]:
        """The runs there are, the one that was written last first."""
        return [name for _, name in self.written()]

    def written(self) -> list[tuple[float, str]]:
        """The runs in order: when each was written last, in seconds before 1970, and its name."""
        names = [file.parent.name for file in self.path.glob("*/run.json") if _is_name(file.parent.name)]
        return sorted((-RunFiles(self.path / name).written_at, name) for name in names)

    def run(self, name: str) -> RunFiles | None:
        """A run by its name; None where there is none."""
        if not _is_name(name) or not (self.path / name / "run.json").is_file():
            return None
        return self._files(name)

    def _files(self, name: str) -> RunFiles:
        path = self.path / name
        with self._lock:
            files = self._open.pop(path, None) or RunFiles(path)
            self._open[path] = files
            while len(self._open) > self._kept:
                self._open.popitem(last=False)
        return files


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None
