"""The batch store gives back exactly what was written, or says that it cannot."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_disk import disk_that_takes
from trainer_builders import group, random_groups, trajectory

from shared.errors import DataError, InfrastructureError
from trainer.batch_store import BatchStore, LateRow, StepBatch

floats = st.floats(allow_nan=False, allow_infinity=False)


def batch(step: int) -> StepBatch:
    late = random_groups(step + 100)[0]
    rows = [LateRow(group=late, trajectory_id=late.trajectories[0].trajectory_id)]
    return StepBatch(step=step, groups=random_groups(step), late=rows)


@given(logprobs=st.lists(floats, min_size=1, max_size=20), text=st.text())
def test_every_number_and_character_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, logprobs: list[float], text: str
) -> None:
    store = BatchStore(tmp_path_factory.mktemp("store"))
    rows = [trajectory(0, text=text, token_ids=range(len(logprobs)), logprobs=logprobs)]
    written = StepBatch(step=0, groups=[group(rows, question=text)])
    store.write(written)
    assert store.read(0) == written


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    digest = store.write(batch(4))
    assert digest == store.digest(4) == hashlib.sha256((tmp_path / "step_000004.zz").read_bytes()).hexdigest()
    assert store.digest(5) is None


def test_a_file_cut_anywhere_or_with_any_byte_changed_is_never_read_as_a_batch(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    store.write(batch(0))
    file = tmp_path / "step_000000.zz"
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match="is damaged"):
            store.read(0)
    for position in range(2, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with pytest.raises(DataError, match="is damaged"):
            store.read(0)


def test_steps_are_read_up_to_the_first_that_is_missing_or_damaged(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    for step in (2, 3, 4, 6):
        store.write(batch(step))
    assert [b.step for b in store.from_step(2)] == [2, 3, 4]
    (tmp_path / "step_000003.zz").write_bytes(b"torn")
    assert [b.step for b in store.from_step(2)] == [2]
    assert store.read_if_whole(3) is None and store.read_if_whole(5) is None


def test_forgetting_leaves_the_others(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    for step in range(6):
        store.write(batch(step))
    store.forget_before(2)
    store.forget_from(4)
    assert store.steps() == [2, 3]


@pytest.mark.parametrize("limit", [0, 10, 300])
def test_a_full_disk_is_one_sentence_and_leaves_the_batch_before(tmp_path: Path, limit: int) -> None:
    store = BatchStore(tmp_path)
    store.write(batch(0))
    with disk_that_takes(limit), pytest.raises(InfrastructureError, match=r"step_000001\.zz cannot be written"):
        store.write(batch(1))
    assert store.steps() == [0] and store.read(0) == batch(0)
