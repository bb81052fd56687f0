"""Checkpoints are whole or not there; what cannot be read is skipped; a full disk is one sentence."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from small_disk import disk_that_takes

from shared.errors import InfrastructureError
from trainer.checkpoint import Checkpoints


def state(step: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((50,), float(step))}


def steps(directory: Path) -> list[str]:
    return sorted(f.name for f in directory.iterdir())


def test_the_newest_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    for step in (5, 10):
        checkpoints.save(step, {**state(step), "rng": torch.get_rng_state(), "nested": {"delta": [0.5, None]}})
    loaded = checkpoints.load_newest()
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["weights"], state(10)["weights"])
    assert loaded["nested"] == {"delta": [0.5, None]}


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "c", keep=1).load_newest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept_and_nothing_else_is_left(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 6):
        checkpoints.save(step, state(step))
    assert steps(tmp_path) == [f"step_{step:06d}.pt" for step in range(6 - keep, 6)]


def test_a_file_torn_at_any_length_is_skipped_for_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    newest = tmp_path / "step_000002.pt"
    whole = newest.read_bytes()
    for length in [*range(0, 12), *range(12, len(whole), 97), len(whole) - 1]:
        newest.write_bytes(whole[:length])
        loaded = checkpoints.load_newest()
        assert loaded is not None and loaded["step"] == 1, length
    newest.write_bytes(whole)
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 2


def test_a_flipped_bit_in_the_weights_is_never_handed_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    newest = tmp_path / "step_000002.pt"
    whole = newest.read_bytes()
    start = whole.index(state(2)["weights"].numpy().tobytes())
    for position in range(start, start + 200, 9):
        newest.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        loaded = checkpoints.load_newest()
        assert loaded is not None and loaded["step"] == 1


@pytest.mark.parametrize("content", [b"\0" * 5000, b"not a checkpoint\n" * 100, b"PK\x03\x04" + b"\xff" * 500, b"\x80"])
def test_a_file_of_something_else_is_skipped(tmp_path: Path, content: bytes) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, state(1))
    (tmp_path / "step_000002.pt").write_bytes(content)
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 1


def test_the_best_is_kept_beside_the_newest_until_there_is_a_better(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in ((1, None), (2, 1), (3, 1), (4, 1), (5, 4)):
        checkpoints.save(step, state(step), best=best)
    assert checkpoints.steps() == [4, 5]
    for step in (6, 7):
        checkpoints.save(step, state(step), best=4)
    assert checkpoints.steps() == [4, 6, 7]


def test_the_digest_of_a_save_is_that_of_its_file(tmp_path: Path) -> None:
    digest = Checkpoints(tmp_path, keep=2).save(1, state(1))
    assert digest == hashlib.sha256((tmp_path / "step_000001.pt").read_bytes()).hexdigest()


def test_the_newest_at_or_before_a_step_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step in (2, 4, 6):
        checkpoints.save(step, state(step))
    loaded = [checkpoints.load_newest(up_to=step) for step in (1, 4, 5)]
    assert [found and found["step"] for found in loaded] == [None, 4, 4]


def test_a_torn_newer_file_never_pushes_out_the_one_just_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(5, state(5))
    (tmp_path / "step_000010.pt").write_bytes(b"torn")
    checkpoints.save(6, state(6))
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 6
    assert steps(tmp_path) == ["step_000006.pt"]


def test_half_written_files_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "step_000003.tmp").write_bytes(b"half")
    assert Checkpoints(tmp_path, keep=1).load_newest() is None


@pytest.mark.parametrize("limit", [0, 100, 5_000, 700_000, 1_200_976, 1_300_000, 2_000_500])
def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_the_last_checkpoint(tmp_path: Path, limit: int) -> None:
    """Wherever in the file the failing write comes."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1))
    large = {"weights": torch.zeros(300_000), "more": [torch.ones(50_000) for _ in range(4)]}
    with disk_that_takes(limit), pytest.raises(InfrastructureError) as caught:
        checkpoints.save(2, large)
    assert re.search(r"step_000002\.pt cannot be written: .*\.", str(caught.value))
    assert "\n" not in str(caught.value)
    assert steps(tmp_path) == ["step_000001.pt"]
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 1
    checkpoints.save(2, large)
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 2


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file where the directory should be")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        Checkpoints(tmp_path / "c", keep=1).save(1, state(1))


def test_files_of_other_names_are_neither_loaded_nor_deleted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state(1))
    mine = tmp_path / "step_000001_mine.pt"
    mine.write_bytes((tmp_path / "step_000001.pt").read_bytes())
    checkpoints.save(2, state(2))
    loaded = checkpoints.load_newest()
    assert loaded is not None and loaded["step"] == 2
    assert steps(tmp_path) == ["step_000001_mine.pt", "step_000002.pt"]
