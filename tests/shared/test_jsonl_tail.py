"""Reading a JSONL file while it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.jsonl_tail import JsonlTail

RECORDS = st.lists(
    st.fixed_dictionaries({"kind": st.just("step"), "step": st.integers(), "note": st.text()}), max_size=8
)


@settings(max_examples=50)
@given(RECORDS, st.lists(st.integers(1, 40), max_size=20))
def test_however_the_file_grows_each_record_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], cuts: list[int]
) -> None:
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path = tmp_path_factory.mktemp("tail") / "metrics.jsonl"
    tail = JsonlTail(path)
    seen = list(tail.read())
    with path.open("ab", buffering=0) as file:
        for size in [*cuts, len(data)]:
            piece, data = data[:size], data[size:]
            file.write(piece)
            seen += tail.read()
    assert seen == records


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = JsonlTail(path)
    assert len(tail.read()) == 2
    part = tmp_path / "part"
    part.write_text('{"step": 1}\n')
    part.replace(path)
    assert tail.read() == [{"step": 1}]


def test_a_line_that_is_no_record_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('oops\n3\n{"step": 1}\n')
    assert JsonlTail(path).read() == [{"step": 1}]
