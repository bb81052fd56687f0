"""Tasks from a user's file: order, split, and mistakes named by file, line and field."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError, SettingsError
from trainer.tasks.jsonl import FileTasks, read_tasks


def entry(name: str, **changes: Any) -> dict[str, Any]:
    reference = {"tests": [{"input": "1", "output": "2"}], "fn_name": "solve"}
    return {
        "id": name,
        "kind": "code.functional",
        "messages": [{"role": "user", "content": f"Question {name}"}],
        "reference": reference,
        **changes,
    }


def write(path: Path, *entries: dict[str, Any] | str) -> Path:
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [entry(f"t{i}") for i in range(count)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"tasks\.jsonl, line 3: Invalid JSON"),
        (entry("b", messages=[]), r"line 3, field messages: "),
        (entry("b", extra=1), r"line 3, field extra: "),
        (entry("b", messages=[{"role": "robot", "content": ""}]), r"line 3, field messages\.0\.role: "),
        (entry("a"), r"line 3, field id: 'a' is already the id of line 1"),
        (entry("b", reference={"fn_name": "f"}), r"line 3, field reference\.tests: task 'b' has no tests"),
        (entry("b", reference={"fn_name": "f", "tests": []}), r"reference\.tests: task 'b' has no tests"),
        (
            entry("b", reference={"fn_name": "f", "tests": [{"input": 1, "output": "1"}]}),
            r"reference\.tests\.0: task 'b'",
        ),
        (entry("b", reference={"tests": [{"input": "1", "output": "1"}]}), r"reference\.fn_name: task 'b'"),
        (entry("b", kind="code.stdin", reference={}), r"reference\.tests: task 'b' has no tests"),
        (entry("b", kind="code.assert", reference={}), r"reference\.test_code: task 'b' has no tests"),
        (entry("b", kind="code.assert", reference={"test_code": "assert f()"}), r"reference\.entry_point: task 'b'"),
        (entry("b", kind="choice", reference={}), r"reference\.answer: task 'b' has no answer"),
    ],
)
def test_a_wrong_line_is_named_by_file_line_and_field(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "tasks.jsonl", entry("a"), "", line)
    with pytest.raises(DataError, match=message):
        read_tasks(path)


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_a_file_without_tasks_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsError, match="holds no task"):
        read_tasks(path)


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(SettingsError, match="not UTF-8 text"):
        read_tasks(path)


def test_a_kind_of_the_users_own_may_have_any_reference(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", entry("a", kind="chess.mate", reference={"fen": "8/8"}))
    assert read_tasks(path)[0].reference == {"fen": "8/8"}


def test_every_epoch_holds_every_task_once_in_another_order(tmp_path: Path) -> None:
    tasks = FileTasks(write(tmp_path / "a.jsonl", *numbered(40)), None, seed=3)
    sequence = [task.id for step in range(24) for task in tasks.training(step, 6)]
    epochs = [sequence[i : i + 36] for i in range(0, 144, 36)]
    assert all(Counter(epoch) == Counter(epochs[0]) and len(set(epoch)) == 36 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@given(step=st.integers(0, 500), count=st.integers(1, 50), seed=st.integers(0, 3))
def test_a_step_is_a_function_of_seed_and_step(
    tmp_path_factory: pytest.TempPathFactory, step: int, count: int, seed: int
) -> None:
    path = write(tmp_path_factory.mktemp("jsonl") / "a.jsonl", *numbered(15))
    first, second = FileTasks(path, None, seed=seed), FileTasks(path, None, seed=seed)
    second.training(7, 3)
    assert first.training(step, count) == second.training(step, count)
    assert len(first.training(step, count)) == count


def test_a_seeded_tenth_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *numbered(50))
    splits = []
    for seed in (1, 2):
        tasks = FileTasks(path, None, seed=seed)
        held_out = {task.id for task in tasks.held_out(1000)}
        trained = {task.id for step in range(9) for task in tasks.training(step, 5)}
        assert len(held_out) == 5
        assert held_out | trained == {f"t{i}" for i in range(50)}
        assert not held_out & trained
        splits.append(held_out)
    assert splits[0] != splits[1]


def test_a_held_out_file_leaves_the_whole_source_for_training(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *numbered(4))
    held_out = write(tmp_path / "b.jsonl", entry("x"), entry("y"))
    tasks = FileTasks(source, held_out, seed=1)
    assert [task.id for task in tasks.held_out(1)] == ["x"]
    assert {task.id for task in tasks.training(0, 4)} == {"t0", "t1", "t2", "t3"}


def test_a_task_in_both_files_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *numbered(4))
    with pytest.raises(DataError, match=r"b\.jsonl: task 't2' is also in"):
        FileTasks(source, write(tmp_path / "b.jsonl", entry("t2")), seed=1)


def test_a_single_task_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none can be held out"):
        FileTasks(write(tmp_path / "a.jsonl", entry("a")), None, seed=1)
