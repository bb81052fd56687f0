"""Reading a file on which somebody else is writing."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.jsonl_tail import JsonlTail, lines_with_offsets
from trainer.disk import write_atomically


def lines(*numbers: int) -> str:
    return "".join(json.dumps({"n": n}) + "\n" for n in numbers)


def test_only_what_is_new_is_read_and_a_line_in_the_making_waits(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tail = JsonlTail(file)
    assert tail.read() == ([], False)
    file.write_text(lines(1) + '{"n": ')
    assert tail.read() == ([{"n": 1}], False)
    assert tail.read() == ([], False)
    with file.open("a") as more:
        more.write("2}\n")
    assert tail.read() == ([{"n": 2}], False)


def test_a_file_that_was_written_anew_is_read_anew_also_where_it_has_grown(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(1, 2))
    tail = JsonlTail(file)
    tail.read()
    write_atomically(file, lines(1, 5, 6, 7))
    assert tail.read() == ([{"n": 1}, {"n": 5}, {"n": 6}, {"n": 7}], True)
    os.truncate(file, len(lines(1)))
    assert tail.read() == ([{"n": 1}], True)


def test_another_file_under_an_inode_that_is_used_again_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(1, 2))
    tail = JsonlTail(file)
    tail.read()
    file.write_text(lines(8, 9, 7))  # The same inode, and longer.
    assert tail.read() == ([{"n": 8}, {"n": 9}, {"n": 7}], True)


def test_a_line_that_holds_no_object_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'\xff\xfe\n[1]\n\n{"n": NaN}\n' + b"[" * 5000 + b"\n" + lines(3).encode())
    assert JsonlTail(file).read().records == [{"n": 3}]


def test_a_reader_goes_on_where_another_of_the_same_file_was(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(1, 2))
    first = JsonlTail(file)
    first.read()
    with file.open("a") as more:
        more.write(lines(3))
    assert JsonlTail(file, first.position).read() == ([{"n": 3}], False)
    write_atomically(file, lines(1, 2, 3))
    assert JsonlTail(file, first.position).read() == ([{"n": 1}, {"n": 2}, {"n": 3}], True)
    for wrong in ("", ".", "a.b", "-1.-1", "²." + "9" * 400):
        assert len(JsonlTail(file, wrong).read().records) == 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.binary(max_size=20) | st.integers(0, 99)),
            st.tuples(st.just("rewrite"), st.lists(st.integers(0, 99), max_size=3)),
        ),
        max_size=12,
    ),
    st.data(),
)
def test_whatever_is_written_the_readings_together_are_the_file_s_whole_lines(
    writes: list[tuple[str, object]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.jsonl"
        tail, seen = JsonlTail(file), []
        for kind, what in writes:
            if kind == "rewrite":
                assert isinstance(what, list)
                write_atomically(file, lines(*what))
            else:
                with file.open("ab") as more:
                    more.write(what if isinstance(what, bytes) else lines(int(str(what))).encode())
            if data.draw(st.booleans()):
                read = tail.read()
                seen = read.records if read.replaced else seen + read.records
        read = tail.read()
        seen = read.records if read.replaced else seen + read.records
        assert seen == JsonlTail(file).read().records


@given(st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b)), st.binary(max_size=9))
def test_lines_stand_where_their_offsets_say(whole: list[bytes], torn: bytes) -> None:
    data = b"".join(line + b"\n" for line in whole) + torn.replace(b"\n", b"")
    found = list(lines_with_offsets(data))
    assert [line for _, line in found] == whole
    assert all(data[offset : offset + len(line)] == line for offset, line in found)
