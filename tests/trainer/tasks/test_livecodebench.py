"""LiveCodeBench's official file and lists of its questions; cells that are hostile."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import STARTER, cases, official, packed, write
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError, SettingsError
from shared.settings import TaskSettings
from trainer.tasks import livecodebench_tests, load_tasks
from trainer.tasks.livecodebench_tests import Case, method_name, printed_examples, read_cell
from trainer.tasks.sources import Loaded, load_data

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TESTS = st.lists(
    st.fixed_dictionaries({"input": TEXT, "output": TEXT, "testtype": st.sampled_from(["stdin", "functional"])})
)


def load(path: Path, **ours: Any) -> Loaded:
    return load_data(TaskSettings.model_validate({"source": f"livecodebench:{path}", "livecodebench": ours}))


def both_of(loaded: Loaded, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tests of a question in training and held out."""
    found = [
        [task.reference["tests"] for task in tasks if task.id == f"livecodebench-{name}"]
        for tasks in (loaded.training, loaded.held_out)
    ]
    return (found[0] or [[]])[0], (found[1] or [[]])[0]


@given(TESTS)
def test_what_is_packed_as_the_official_file_does_is_read_again(tests: list[dict[str, str]]) -> None:
    expected = [Case(one["input"], one["output"], one["testtype"] == "functional") for one in tests]
    assert read_cell(packed(tests)) == read_cell(json.dumps(tests)) == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(protocol: int) -> None:
    text = json.dumps(cases(1)) + " " * 300
    cell = base64.b64encode(zlib.compress(pickle.dumps(text, protocol=protocol))).decode()
    assert len(read_cell(cell)) == 1


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: base64.b64encode(zlib.compress(data)).decode()))
def test_any_other_cell_is_refused_with_a_phrase_and_nothing_else_happens(cell: str) -> None:
    try:
        assert isinstance(read_cell(cell), list)
    except ValueError as error:
        assert str(error).startswith(("is ", "holds ", "has "))


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"{os.environ['HOSTILE_PICKLE']}/made",)


@pytest.mark.parametrize("value", [Hostile(), [json.dumps([])], b"[]", ("[]", "[]"), {"a": "[]"}, 7, None])
def test_a_pickle_that_is_not_one_string_is_refused_and_not_run(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_PICKLE", str(tmp_path))
    data = pickle.dumps(value)
    with pytest.raises(ValueError, match="holds a pickle that is not one string"):
        read_cell(base64.b64encode(zlib.compress(data)).decode())
    assert not list(tmp_path.iterdir())
    if isinstance(value, Hostile):
        pickle.loads(data)
        assert list(tmp_path.iterdir())  # it would have done something


def test_a_cell_that_grows_without_end_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench_tests, "MAX_CELL_BYTES", 2**20)
    bomb = base64.b64encode(zlib.compress(b"\0" * 2**24)).decode()
    with pytest.raises(ValueError, match="larger than 1 MiB when decompressed"):
        read_cell(bomb)


def test_questions_of_the_window_of_contest_dates_are_taken_alone(tmp_path: Path) -> None:
    dates = {"a": "2025-01-31T23:59:59", "b": "2025-02-01T00:00:00", "c": "2025-04-30", "d": "2025-05-01T00:00:00"}
    rows = [official(name, contest_date=date) for name, date in dates.items()]
    loaded = load(write(tmp_path / "test.jsonl", *rows))
    assert {task.id for task in (*loaded.training, *loaded.held_out)} == {"livecodebench-b", "livecodebench-c"}
    assert loaded.readings[0].left_out == {"contest date outside 2025-02-01 to 2025-05-01": 2}
    wider = load(write(tmp_path / "test.jsonl", *rows), from_date="2025-01-01", to_date="2025-06-01")
    assert len(wider.training) + len(wider.held_out) == 4


def test_nothing_in_the_window_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no task \(left out: 1 with contest date outside"):
        load(write(tmp_path / "test.jsonl", official("a", contest_date="2024-01-01")))


def test_by_default_held_out_questions_are_not_trained_on_and_hide_their_private_tests(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "test.jsonl", *(official(f"q{i}") for i in range(20))))
    assert (len(loaded.training), len(loaded.held_out)) == (18, 2)
    assert not {task.id for task in loaded.training} & {task.id for task in loaded.held_out}
    assert [test["public"] for test in loaded.held_out[0].reference["tests"]] == [True] * 2 + [False] * 8
    assert [test["public"] for test in loaded.training[0].reference["tests"]] == [True] * 10


def test_the_papers_protocol_trains_on_half_of_the_private_tests_and_holds_out_all(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", *(official(f"q{i}", private=9) for i in range(3)))
    loaded = load(path, protocol="tests")
    assert (
        [t.id for t in loaded.training] == [t.id for t in loaded.held_out] == [f"livecodebench-q{i}" for i in range(3)]
    )
    drawn = set()
    for name in ("q0", "q1", "q2"):
        training, held_out = both_of(loaded, name)
        assert len(training) == 4 and len(held_out) == 11
        inputs = [test["input"] for test in training]
        assert set(inputs) < {test["input"] for test in held_out if not test["public"]}
        assert inputs == sorted(inputs)
        drawn.add(tuple(inputs))
    assert len(drawn) > 1
    assert load(path, protocol="tests").training == loaded.training
    assert len(both_of(load(path, protocol="tests", training_tests=0.0), "q0")[0]) == 1


def test_functional_questions_keep_class_solution_and_name_its_method(tmp_path: Path) -> None:
    rows = [official("a", testtype="functional"), official("b", testtype="functional", metadata="{}")]
    loaded = load(write(tmp_path / "test.jsonl", *rows))
    for task in (*loaded.training, *loaded.held_out):
        assert task.kind == "code.functional" and task.reference["fn_name"] == "add"
        assert STARTER.rstrip() in task.messages[-1].content


def test_the_largest_tests_are_left_out_where_a_question_has_too_many(tmp_path: Path) -> None:
    large = [{"input": "1" * 5000, "output": "1", "testtype": "stdin"}, *cases(3)]
    path = write(tmp_path / "test.jsonl", official("a", private_test_cases=packed(large)), official("b"))
    loaded = load(path, max_tests_mb=0.004)
    assert loaded.readings[0].tests_left_out == 1
    assert all("1" * 5000 not in str(task.reference) for task in (*loaded.training, *loaded.held_out))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"private_test_cases": "%"},
            "field private_test_cases: is neither JSON nor base64 .*; download the file again",
        ),
        ({"private_test_cases": packed(cases(3))[:-8]}, "field private_test_cases: is "),
        ({"public_test_cases": "[1]"}, "field public_test_cases: has no texts `input` and `output` in test 0"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "field private_test_cases: holds no test"),
        ({"private_test_cases": packed(cases(1, "functional"))}, "mixes tests of type stdin and functional"),
        ({"private_test_cases": packed([{**cases(1)[0], "testtype": "x"}])}, "neither stdin nor functional"),
        ({"metadata": "["}, "field metadata: holds no JSON object"),
        ({"contest_date": "yesterday"}, "field contest_date: is no date"),
        ({"question_content": ""}, "field question_content: has no text"),
        ({"question_id": None}, "field question_id: has no text"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "test.jsonl", official("a"), official("b", **changes))
    with pytest.raises(DataError, match=rf"test\.jsonl, line 2, .*{message}"):
        load_tasks(TaskSettings(source=f"livecodebench:{path}"), seed=1)


def test_a_file_of_neither_form_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", {"contest_date": "2025-03-01", "prompt": "x"})
    with pytest.raises(DataError, match="neither LiveCodeBench's own file nor a list of it"):
        load_tasks(TaskSettings(source=f"livecodebench:{path}"), seed=1)


@given(
    st.lists(
        st.integers() | st.lists(st.integers(), max_size=3) | st.text("ab ,=", max_size=4), min_size=1, max_size=4
    ),
    st.integers() | st.booleans(),
)
def test_printed_examples_are_read_whatever_their_values(values: list[Any], output: Any) -> None:
    starter = "class Solution:\n    def f(self, " + ", ".join(f"a{i}: int" for i in range(len(values))) + ") -> int:\n"
    written = ", ".join(f"a{i} = {json.dumps(value)}" for i, value in enumerate(values))
    question = f"Do it.\n\nExample 1:\n\nInput: {written}\nOutput: {json.dumps(output)}\nExplanation: so.\n"
    (case,) = printed_examples(question, starter)
    assert [json.loads(line) for line in case.input.split("\n")] == values and json.loads(case.output) == output
    assert method_name(starter) == "f"
