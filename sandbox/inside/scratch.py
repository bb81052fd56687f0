"""The directory a program may write in: whether too much is in it, and how it is emptied. Nothing that a program can
make is too deep or too private for either."""

from __future__ import annotations

import os

MAX_BYTES = 64 * 2**20
MAX_ENTRIES = 512
_BLOCK_BYTES = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def too_much(path: str) -> bool:
    """Whether more than `MAX_BYTES` or `MAX_ENTRIES` are below a directory, or something there cannot be counted:
    a directory closed to us or nested beyond the longest path. A program may be at work in it."""
    count, size, todo = 0, 0, [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    count, size = count + 1, size + _size(entry)
                    if count > MAX_ENTRIES or size > MAX_BYTES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # gone since it was listed
            continue
        except OSError:
            return True
    return False


def clear(path: str) -> None:
    """Remove all that is in a directory in which nobody is at work any more. Raises OSError if something stays.

    Descends by descriptors, one at a time: no path is too long for it and no tree too deep.
    """
    here = os.open(path, _DIRECTORY)
    try:
        todo = [_remove_files(here)]
        while todo:
            if todo[-1]:
                here = _move(here, todo[-1][-1])
                todo.append(_remove_files(here))
                continue
            todo.pop()
            if todo:
                here = _move(here, "..")
                os.rmdir(todo[-1].pop(), dir_fd=here)
    finally:
        os.close(here)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return max(status.st_size, status.st_blocks * _BLOCK_BYTES)


def _remove_files(directory: int) -> list[str]:
    """Remove all but the directories in a directory; the names of those, opened to us."""
    with os.scandir(directory) as entries:
        found = list(entries)
    inner = []
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.name, 0o700, dir_fd=directory)
            inner.append(entry.name)
        else:
            os.unlink(entry.name, dir_fd=directory)
    return inner


def _move(directory: int, name: str) -> int:
    moved = os.open(name, _DIRECTORY, dir_fd=directory)
    os.close(directory)
    return moved
