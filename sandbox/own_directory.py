"""The directory of a sandbox: held while its owner lives, removed by the next one if its owner was killed.

It is held by a lock on itself (`flock`), which the kernel takes back when the owner's process ends in any way. So a
directory that nobody holds is a dead owner's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from sandbox.inside import scratch

PREFIX = "vpd-held-sandbox-"
UNHELD_PREFIX = "vpd-unheld-"


class OwnDirectory:
    """An empty directory `path` below the system's temporary one, ours alone until `remove`."""

    def __init__(self) -> None:
        remove_stale()
        unheld = Path(tempfile.mkdtemp(prefix=UNHELD_PREFIX))
        self._lock = os.open(unheld, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # It gets its name when it is held: from its name alone, nobody could tell it from a stale one.
        self.path = unheld.rename(unheld.with_name(PREFIX + unheld.name.removeprefix(UNHELD_PREFIX)))

    def remove(self) -> None:
        """Remove it with all that is in it. Can be repeated."""
        remove_tree(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_tree(path: Path) -> None:
    """Remove a directory, however deep what a program left in it is; what cannot be removed stays for the next one."""
    with contextlib.suppress(OSError):
        scratch.clear(str(path))
        path.rmdir()


def remove_stale() -> None:
    """Remove the directories of our user whose owners were killed before they could."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held by its owner, or removed by another one just now
            _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
    finally:
        os.close(lock)
