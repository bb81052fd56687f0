"""A program's directory: counted whatever is in it, emptied whatever was made in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.inside import scratch

DEPTH = 3000


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tree in it that is deeper than any path is long, with a file at its end."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("dir", dir_fd=here)
        inner = os.open("dir", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    yield tmp_path
    scratch.clear(str(tmp_path))  # pytest's own removal recurses


def test_clearing_removes_a_tree_deeper_than_any_path_and_any_recursion(deep: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    scratch.clear(str(deep))
    assert list(deep.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_clearing_removes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    room = tmp_path / "room"
    room.mkdir()
    (room / "to-directory").symlink_to(kept)
    (room / "to-nothing").symlink_to("nowhere")
    os.mkfifo(room / "fifo")
    scratch.clear(str(room))
    assert list(room.iterdir()) == []
    assert (kept / "file").exists()


def test_clearing_opens_directories_that_are_closed(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for path in (inner, inner.parent):
        path.chmod(0)
    scratch.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_clearing_does_not_follow_a_link_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(OSError):
        scratch.clear(str(tmp_path / "link"))
    assert (tmp_path / "kept" / "file").exists()


def test_up_to_the_limits_it_is_not_too_much(tmp_path: Path) -> None:
    for number in range(scratch.MAX_ENTRIES - 1):
        (tmp_path / str(number)).touch()
    (tmp_path / "big").write_bytes(bytes(2**20))
    assert not scratch.too_much(str(tmp_path))
    (tmp_path / "one more").touch()
    assert scratch.too_much(str(tmp_path))


def test_sizes_count_with_and_without_blocks(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(scratch.MAX_BYTES + 1)
    assert scratch.too_much(str(tmp_path))
    with (tmp_path / "hole").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, scratch.MAX_BYTES + 2**20)
        file.truncate(0)
    assert not scratch.too_much(str(tmp_path))


def test_what_cannot_be_counted_is_too_much(deep: Path) -> None:
    assert scratch.too_much(str(deep))


def test_a_directory_that_is_gone_is_not_too_much(tmp_path: Path) -> None:
    assert not scratch.too_much(str(tmp_path / "gone"))
