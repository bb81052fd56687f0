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
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks import TaskSet, load_tasks
from trainer.tasks.sources import Loaded, load_data


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


def load(source: Path, held_out: Path | None = None, *, seed: int = 1, **options: Any) -> TaskSet:
    other = None if held_out is None else str(held_out)
    return load_tasks(TaskSettings(source=str(source), held_out=other, **options), seed=seed)


def read(path: Path) -> Loaded:
    return load_data(TaskSettings(source=str(path)))


def all_tasks(loaded: Loaded) -> dict[str, Task]:
    return {task.id: task for task in (*loaded.training, *loaded.held_out)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"tasks\.jsonl, line 3: Invalid JSON"),
        ("[1]", r"line 3: this is no JSON object"),
        ('{"id": NaN}', r"line 3: Invalid JSON"),
        ('{"id": "\\ud800"}', r"line 3: Invalid JSON"),
        (entry("b") | {"messages": "Hi"}, r"line 3, field messages: "),
        ({"messages": []}, r"line 3, field id: is missing"),
        (entry("b", messages=[]), r"line 3, field messages: "),
        (entry("b", extra=1), r"line 3, field extra: "),
        (entry("b", messages=[{"role": "robot", "content": ""}]), r"line 3, field messages\.0\.role: "),
        (entry("b", id="a"), r"line 3, field id: 'a' is already the id of line 1"),
        (entry("b", reference={"fn_name": "f"}), r"line 3, .*reference\.tests is empty: give at least one"),
        (entry("b", reference={"fn_name": "f", "tests": [{"input": 1, "output": "1"}]}), r"reference\.tests\.0\.input"),
        (entry("b", reference={"fn_name": "f", "tests": [{"input": "x", "output": "1"}]}), r"one JSON value a line"),
        (entry("b", reference={"tests": [{"input": "1", "output": "1"}]}), r"needs reference\.fn_name"),
        (entry("b", kind="code.stdin", reference={}), r"reference\.tests is empty"),
        (entry("b", kind="code.assert", reference={}), r"needs reference\.test_code"),
        (entry("b", kind="choice", reference={}), r"reference\.answer: task 'b' has no answer"),
        (entry("b", kind="choice", reference={"answer": "AB"}), r"'AB' is not the letter of an option"),
        (entry("b", kind="math", reference={"answer": " "}), r"reference\.answer: task 'b' has no answer"),
        ({"prompt": " ", "answer": "1"}, r"line 3, field prompt: has no text"),
        ({"prompt": "Why?"}, r"line 3, field answer: exactly one of"),
        ({"prompt": "Why?", "answer": None}, r"line 3, field reference\.answer"),
        ({"prompt": "Why?", "answer": "1", "reference": {}}, r"line 3, field answer: exactly one of"),
        ({"prompt": "Why?", "reference": {"tests": []}}, r"line 3, field kind: is missing"),
        ({"prompt": "Why?", "answer": "1", "anwser": "2"}, r"line 3, field anwser: is not a field of a task"),
    ],
)
def test_a_wrong_line_is_named_by_file_line_and_field(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "tasks.jsonl", entry("a"), "", line)
    with pytest.raises(DataError, match=message):
        load(path)


def test_every_wrong_line_is_found_and_the_first_is_told_with_how_many_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", entry("a"), "{oops", entry("b"), "[]", entry("c", kind=""))
    loaded = read(path)
    assert [str(mistake).split(", ")[1][:6] for mistake in loaded.mistakes] == ["line 2", "line 4", "line 5"]
    with pytest.raises(DataError, match=r"line 2: .* 2 more rows are wrong; `vpd data check` lists them"):
        load(path)


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_a_file_without_tasks_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsError, match="holds no task"):
        load(path)


def test_a_line_that_is_not_utf8_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'\n{"id": "\xff"}')
    with pytest.raises(DataError, match=r"line 2: Invalid JSON: invalid unicode code point at character 9.*UTF-8"):
        load(path)


def test_a_kind_of_the_users_own_may_have_any_reference(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", entry("a", kind="chess.mate", reference={"fen": "8/8"}), entry("b"))
    assert all_tasks(read(path))["a"].reference == {"fen": "8/8"}


def test_the_short_form_is_a_task_with_an_id_of_its_own(tmp_path: Path) -> None:
    lines = [
        {"prompt": "What is 1 + 1?", "answer": 2},
        {"prompt": "Which?", "answer": "B", "kind": "choice", "id": "mine", "system": "Choose.", "source": "quiz"},
        {
            "prompt": "Echo.",
            "kind": "code.stdin",
            "reference": {"tests": [{"input": "1", "output": "1"}]},
            "source": "q",
        },
    ]
    tasks = sorted(all_tasks(read(write(tmp_path / "own.jsonl", *lines))).values(), key=lambda task: task.kind)
    assert [(task.kind, task.id.rpartition("-")[0]) for task in tasks] == [
        ("choice", ""),
        ("code.stdin", "q"),
        ("math", "own"),
    ]
    assert [message.role for message in tasks[0].messages] == ["system", "user"] and tasks[0].id == "mine"
    assert tasks[2].reference == {"answer": 2}


def test_every_epoch_holds_every_task_once_in_another_order(tmp_path: Path) -> None:
    tasks = load(write(tmp_path / "a.jsonl", *numbered(40)), seed=3)
    sequence = [task.id for step in range(24) for task in tasks.training(step, 6)]
    epochs = [sequence[i : i + 36] for i in range(0, 144, 36)]
    assert all(Counter(epoch) == Counter(epochs[0]) and len(set(epoch)) == 36 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@given(step=st.integers(0, 500), count=st.integers(1, 50), seed=st.integers(0, 3))
def test_a_step_is_a_function_of_seed_and_step(
    tmp_path_factory: pytest.TempPathFactory, step: int, count: int, seed: int
) -> None:
    path = write(tmp_path_factory.mktemp("jsonl") / "a.jsonl", *numbered(15))
    first, second = load(path, seed=seed), load(path, seed=seed)
    second.training(7, 3)
    assert first.training(step, count) == second.training(step, count)
    assert len(first.training(step, count)) == count


def test_a_seeded_tenth_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *numbered(50))
    splits = []
    for split_seed in (1, 2):
        tasks = load(path, split_seed=split_seed)
        assert tasks.held_out(1000) == load(path, split_seed=split_seed, seed=7).held_out(1000)
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
    tasks = load(source, held_out)
    assert [task.id for task in tasks.held_out(1)] == ["x"]
    assert {task.id for task in tasks.training(0, 4)} == {"t0", "t1", "t2", "t3"}


def test_a_question_that_is_held_out_is_left_out_of_training_whatever_its_white_space(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *numbered(4))
    other = entry("x", messages=[{"role": "user", "content": " Question\n t2"}])
    held_out = write(tmp_path / "b.jsonl", other)
    loaded = load_data(TaskSettings(source=str(source), held_out=str(held_out)))
    assert [task.id for task in loaded.training] == ["t0", "t1", "t3"]
    assert [task.id for task in loaded.held_out] == ["x"]
    assert loaded.readings[0].left_out == {"a held-out question": 1}


def test_the_same_question_is_a_task_once(tmp_path: Path) -> None:
    again = entry("again", messages=[{"role": "user", "content": "Question t1"}])
    loaded = read(write(tmp_path / "a.jsonl", *numbered(4), again))
    assert all_tasks(loaded).keys() == {"t0", "t1", "t2", "t3"}
    assert loaded.readings[0].left_out == {"the same question as a row before": 1}


def test_letters_keep_their_case_where_questions_are_compared(tmp_path: Path) -> None:
    lines = [{"prompt": f"Name {formula}", "answer": "x"} for formula in ("c1ccccc1", "C1CCCCC1")]
    assert len(all_tasks(read(write(tmp_path / "a.jsonl", *lines)))) == 2


def test_an_id_in_both_files_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *numbered(4))
    other = entry("t2", messages=[{"role": "user", "content": "Another"}])
    with pytest.raises(DataError, match=r"b\.jsonl: 't2' is also the id of a task in .*a\.jsonl"):
        load(source, write(tmp_path / "b.jsonl", other))


def test_a_single_task_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds one task, so none can be held out"):
        load(write(tmp_path / "a.jsonl", entry("a")))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_limit_takes_the_first_training_tasks_and_accounts_for_the_others(tmp_path: Path, held_out: bool) -> None:
    source = write(tmp_path / "a.jsonl", *numbered(20))
    other = str(write(tmp_path / "b.jsonl", entry("x"))) if held_out else None
    loaded = load_data(TaskSettings(source=str(source), held_out=other, limit=5))
    assert len(loaded.training) == 5
    assert loaded.readings[0].left_out == {"more than tasks.limit": 15 if held_out else 13}
