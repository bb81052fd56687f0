"""The ledger is append-only: what was changed, lost or put in between is found; what a crash tore is cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_disk import disk_that_takes
from trainer_builders import random_groups

from shared.errors import DataError, InfrastructureError
from trainer.ledger import Entry, Ledger, counted_steps, read_ledger


def written(file: Path, steps: int = 3) -> bytes:
    ledger = Ledger(file)
    ledger.start(0)
    for step in range(steps):
        ledger.step(step, random_groups(step), batch=f"{step:064d}")
    ledger.note_checkpoint(steps, "a" * 64, "b" * 64)
    return file.read_bytes()


def test_what_is_read_is_what_was_written_in_order(tmp_path: Path) -> None:
    written(tmp_path / "ledger.jsonl")
    entries = read_ledger(tmp_path / "ledger.jsonl").entries
    assert [e["kind"] for e in entries] == ["start", "step", "step", "step", "checkpoint"]
    assert entries[2]["groups"] == [g.group_id for g in random_groups(1)]
    assert entries[2]["versions"] == [1, 1]


def test_a_ledger_opened_again_goes_on_with_the_chain(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    before = written(file)
    Ledger(file).start(3)
    assert file.read_bytes().startswith(before)
    assert read_ledger(file).entries[-1]["step"] == 3


def test_a_last_line_torn_at_any_byte_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    whole = written(file)
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    for length in range(start + 1, len(whole)):
        file.write_bytes(whole[:length])
        assert len(read_ledger(file).entries) == 4
        Ledger(file).start(7)
        kinds = [e["kind"] for e in read_ledger(file).entries]
        assert kinds == ["start", "step", "step", "step", "start"], length


@given(data=st.data())
def test_a_line_that_was_changed_removed_repeated_or_moved_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    lines = written(file, steps=4).splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 2))
    damage = data.draw(st.sampled_from(["change", "remove", "repeat", "swap"]))
    if damage == "change":
        entry = json.loads(lines[at])
        entry["step"] = entry["step"] + 1
        lines[at] = json.dumps(entry).encode() + b"\n"
    elif damage == "remove":
        del lines[at]
    elif damage == "repeat":
        lines.insert(at, lines[at])
    else:
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    file.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=r"line \d+: it, or a line before it, was changed or is missing"):
        read_ledger(file)


def test_a_damaged_line_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    lines = written(file).splitlines(keepends=True)
    file.write_bytes(lines[0] + b"{not json\n" + b"".join(lines[2:]))
    with pytest.raises(DataError, match=r"ledger\.jsonl, line 2: it is damaged") as caught:
        Ledger(file)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_sentence_and_leaves_the_lines_before_whole(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    before = written(file)
    ledger = Ledger(file)
    with disk_that_takes(len(before) + 40), pytest.raises(InfrastructureError, match="cannot be written"):
        ledger.step(3, random_groups(3), batch="c" * 64)
    assert file.read_bytes() == before
    ledger.step(3, random_groups(3), batch="c" * 64)
    assert len(read_ledger(file).entries) == 6


def test_a_checkpoint_is_noted_once_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    written(file)
    ledger = Ledger(file)
    ledger.note_checkpoint(3, "a" * 64, "b" * 64)
    ledger.note_checkpoint(3, "c" * 64, "b" * 64)
    assert [e["sha256"][0] for e in read_ledger(file).entries if e["kind"] == "checkpoint"] == ["a", "c"]


def test_a_start_makes_the_steps_at_and_after_it_void() -> None:
    def step(number: int, *groups: str) -> Entry:
        return {"kind": "step", "step": number, "groups": list(groups)}

    entries = [step(0, "a"), step(1, "b"), step(2, "c"), {"kind": "start", "step": 1}, step(1, "d")]
    assert counted_steps(entries) == {0: ["a"], 1: ["d"]}
    assert counted_steps(entries, with_void=True) == {0: ["a"], 1: ["d"], 2: ["c"]}
