"""A `vpd up`'s hold on a run directory: the lock, moving an old run aside, and the note on what runs in it.

What the run leaves in it (metrics, checkpoints, summary) is written by the trainer.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from shared.errors import InfrastructureError, VPDError
from shared.settings import Settings

MIN_FREE_MB = 200


@dataclass(frozen=True)
class Stack:
    """What `up.json` says: which processes run where. Times are the kernel's start times, against reused ids."""

    supervisor: int
    supervisor_started: str
    services: dict[str, str]
    """Base URL by service."""
    pids: dict[str, int]
    started: dict[str, str]

    def alive(self) -> dict[str, int]:
        """The processes that still run, by name."""
        return {name: pid for name, pid in self.pids.items() if start_time(pid) == self.started[name] != ""}

    def supervised(self) -> bool:
        """Whether the `vpd up` that started it still runs."""
        return start_time(self.supervisor) == self.supervisor_started != ""


class Claim:
    """`runs/NAME`, held by one `vpd up` at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Claim:
        """The claim on the directory that the settings name, not taken yet."""
        return cls(Path(settings.run.dir) / settings.run.name)

    def take(self, *, fresh: bool) -> None:
        """Hold the directory until this process ends, moving an old run aside if `fresh`.

        Raises `VPDError` if its run is complete, another process holds it, or it cannot be made.
        """
        self._acquire()
        kept = self.stack()
        if kept is not None and kept.alive():
            raise VPDError(f"Services of an earlier run are still up in {self.path}: stop them with `vpd down`.")
        if fresh and any(entry.name != ".lock" for entry in self.path.iterdir()):
            self.path.rename(self._free_name())
            self.release()
            self._acquire()
        summary = self.summary()
        if summary is not None:
            raise VPDError(
                f"The run in {self.path} is complete: start it anew with --fresh (the old one is kept aside), "
                "or another one with --set run.name=NAME."
            )

    def release(self) -> None:
        """Give the directory back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def summary(self) -> dict[str, Any] | None:
        """What the finished run came to; None while it is not finished."""
        return _read_json(self.path / "summary.json")

    def stack(self) -> Stack | None:
        """The stack that was last noted here; None if it was taken down."""
        note = _read_json(self.path / "up.json")
        try:
            return None if note is None else Stack(**note)
        except TypeError:
            return None

    def note(self, services: dict[str, str], pids: dict[str, int]) -> None:
        """Write `up.json`, from which `vpd status` and `vpd down` work."""
        started = {name: start_time(pid) for name, pid in pids.items()}
        stack = Stack(os.getpid(), start_time(os.getpid()), services, pids, started)
        part = self.path / "up.json.part"
        part.write_text(json.dumps(asdict(stack), indent=1))
        part.replace(self.path / "up.json")

    def forget(self) -> None:
        """Remove `up.json`."""
        (self.path / "up.json").unlink(missing_ok=True)

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise VPDError(f"The run directory {self.path} cannot be made: {error.strerror}.") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise VPDError(
                f"Another `vpd up` (process {owner}) runs in {self.path}: wait for it, stop it with `vpd down`, "
                "or choose another name with --set run.name=NAME."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _free_name(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return aside


def stacks_below(folder: Path) -> dict[Path, Stack]:
    """The stacks noted in the run directories of `folder` of which something still runs."""
    found = {note.parent: Claim(note.parent).stack() for note in sorted(folder.glob("*/up.json"))}
    return {path: stack for path, stack in found.items() if stack and (stack.alive() or stack.supervised())}


def require_space(folder: Path) -> None:
    """Raise `InfrastructureError` if the disk of `folder` is nearly full."""
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb < MIN_FREE_MB:
        raise InfrastructureError(f"Only {free_mb} MB are free where {folder} is; a run needs {MIN_FREE_MB} MB.")


def start_time(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty if there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
