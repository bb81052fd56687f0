"""SciKnowEval, mathematics and any data set of columns; folders, splits, Parquet, and what is missing."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import exported, of_the_hub, write

from shared.errors import DataError, SettingsError
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks import load_tasks
from trainer.tasks.sources import Loaded, load_data

ASKED = {"role": "user", "content": "Solve."}


def load(source: str, **options: Any) -> Loaded:
    return load_data(TaskSettings.model_validate({"source": source, **options}))


def tasks_of(loaded: Loaded) -> list[Task]:
    assert not loaded.mistakes, loaded.mistakes
    return sorted((*loaded.training, *loaded.held_out), key=lambda task: task.messages[-1].content)


def problem(number: int, **changes: Any) -> dict[str, Any]:
    return {"problem": f"What is {number} + 1?", "answer": str(number + 1), **changes}


# -------------------------------------------------------------------------------------------------- sciknoweval


def test_sdpos_export_keeps_its_prompts_to_the_letter_and_its_splits(tmp_path: Path) -> None:
    for domain in ("biology", "physics"):
        write(tmp_path / domain / "train.jsonl", *(exported(f"{domain} {i}") for i in range(4)), exported("both"))
        write(
            tmp_path / domain / "test.jsonl",
            exported(f"{domain} t"),
            exported(f"both{'' if domain == 'biology' else 2}"),
        )
    loaded = load(f"sciknoweval:{tmp_path}")
    assert (len(loaded.training), len(loaded.held_out)) == (8, 4)
    assert loaded.readings[0].left_out == {"the same question as a row before": 1, "a held-out question": 1}
    first = loaded.training[0]
    assert [m.content for m in first.messages] == ["\nChoose.\n", exported("biology 0")["prompt"]]
    assert first.id.startswith("sciknoweval-biology-") and first.reference == {"answer": "B"}
    only = load(f"sciknoweval:{tmp_path}", sciknoweval={"domains": ["physics"]})
    assert {task.id.split("-")[1] for task in tasks_of(only)} == {"physics"}
    assert only.readings[0].left_out["domain biology"] == 5


def test_of_the_hubs_rows_multiple_choice_of_one_level_is_taken(tmp_path: Path) -> None:
    two = {"choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "A", "type": "mcq-2-choices"}
    rows = [
        of_the_hub("a"),
        of_the_hub("b", **two, domain="Materials"),
        of_the_hub("c", details={"level": "L1"}),
        of_the_hub("d", type="open-ended-qa"),
    ]
    loaded = load(f"sciknoweval:{write(tmp_path / 'rows.jsonl', *rows)}")
    one, other = tasks_of(loaded)
    assert loaded.readings[0].left_out == {"level L1": 1, "type open-ended-qa": 1}
    assert one.messages[1].content == ("Question a?\n\nA: one\nB: two\nC: three\nD: four\nPlease reason step by step.")
    assert "(A, B, C or D)" in one.messages[0].content and "(A or B)" in other.messages[0].content
    assert one.reference == {"answer": "C"} and other.id.startswith("sciknoweval-material-")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (of_the_hub("a", answerKey="E"), "field answerKey: 'E' is no label of the choices; they are A, B, C, D"),
        (of_the_hub("a", choices={"text": ["x"], "label": ["A", "B"]}), "field choices: is not"),
        (of_the_hub("a", choices={"text": ["x", "y"], "label": ["A", "A"]}), "field choices.label: "),
        (of_the_hub("a", domain="History"), "field domain: is none of biology"),
        (of_the_hub("a", details=None), "field details.level: is missing"),
        (exported("a", domain="biology", answer="E or F"), "field answer: 'E or F' is not the letter"),
        (exported("a", domain="biology", system=None), "field system: has no text"),
        (exported("a"), "field domain: is none of"),
    ],
)
def test_a_wrong_row_of_sciknoweval_is_named_by_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"line 2, {message}"):
        load_tasks(TaskSettings(source=f"sciknoweval:{write(tmp_path / 'r.jsonl', of_the_hub('ok'), row)}"), seed=1)


# --------------------------------------------------------------------------------------------------- mathematics

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is 5 + 1?\n\nRemember to put your "
    'answer on its own line after "Answer:".'
)


def test_every_form_of_a_problem_gets_the_same_instruction(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        problem(1),
        {"question": "What is 2 + 1?", "answer": "2 + 1 is 3.\n#### 3"},
        {"prompt": [{"role": "user", "content": DAPO}], "reward_model": {"ground_truth": "6", "style": "rule"}},
        {"prompt": "What is 7 + 1?", "solution": "...", "answer": 8},
    ]
    tasks = tasks_of(load(f"math:{write(tmp_path / 'mixed.jsonl', *rows)}"))
    assert [task.messages[0].content for task in tasks] == [
        f"What is {n} + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        for n in (1, 2, 5, 7)
    ]
    assert [task.reference["answer"] for task in tasks] == ["2", "3", "6", "8"]
    assert {(task.kind, task.id.rpartition("-")[0]) for task in tasks} == {("math", "mixed")}


def test_a_problem_that_is_held_out_is_left_out_of_training_whatever_its_form(tmp_path: Path) -> None:
    dapo = {"prompt": [{"role": "user", "content": DAPO}], "reward_model": {"ground_truth": "6"}}
    source = write(tmp_path / "dapo.jsonl", dapo, dapo, problem(1))
    held_out = write(tmp_path / "aime.jsonl", problem(5))
    loaded = load(f"math:{source}", held_out=f"math:{held_out}")
    assert [task.reference["answer"] for task in loaded.training] == ["2"]
    assert loaded.readings[0].left_out == {"the same question as a row before": 1, "a held-out question": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "field problem: is missing"),
        (problem(2, answer=None), "field answer: has no text, and reward_model.ground_truth neither"),
        (problem(2, answer=True), "field answer: has no text"),
        ({"prompt": [ASKED, ASKED], "answer": "1"}, "field prompt: is not a chat with one message of role 'user'"),
    ],
)
def test_a_wrong_problem_is_named_by_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"line 2, {message}"):
        load_tasks(TaskSettings(source=f"math:{write(tmp_path / 'r.jsonl', problem(1), row)}"), seed=1)


# ------------------------------------------------------------------------------------------------------- columns


def test_columns_are_those_that_the_settings_name(tmp_path: Path) -> None:
    rows = [
        {"ask": "One?", "gold": "A"},
        {"ask": [{"role": "user", "content": "Two?"}], "gold": {"answer": "B", "note": 1}},
    ]
    options = {"prompt": "ask", "answer": "gold", "kind": "choice", "system": "Choose."}
    one, two = tasks_of(load(f"hf:{write(tmp_path / 'quiz.jsonl', *rows)}", huggingface=options))
    assert [message.content for message in one.messages] == ["Choose.", "One?"]
    assert (one.kind, one.reference, two.reference) == ("choice", {"answer": "A"}, {"answer": "B", "note": 1})
    with pytest.raises(
        DataError, match=r"line 1, field prompt: is missing; name the columns in tasks\.huggingface, of ask"
    ):
        load_tasks(TaskSettings(source=f"hf:{tmp_path / 'quiz.jsonl'}"), seed=1)


def test_parquet_files_and_saved_data_sets_give_the_same_tasks_as_lines(tmp_path: Path) -> None:
    import datasets

    rows = [problem(i) for i in range(30)]
    lines = load(f"math:{write(tmp_path / 'a.jsonl', *rows)}")
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(tmp_path / "p" / "train-00000-of-00001.parquet")
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "p", tmp_path / "saved", f"{tmp_path / 'saved'}@train"):
        found = load(f"math:{source}")
        assert [task.messages for task in found.held_out] == [task.messages for task in lines.held_out]
    data.add_column("x", [1] * 30).remove_columns("answer").to_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q\.parquet, row 1, field answer: has no text.* 29 more rows are wrong"):
        load_tasks(TaskSettings(source=f"math:{tmp_path / 'q.parquet'}"), seed=1)


def test_a_folder_with_train_and_test_keeps_them_and_a_named_split_is_taken_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *(problem(i) for i in range(20)))
    write(tmp_path / "test-1.jsonl", problem(30))
    write(tmp_path / "test-2.jsonl", problem(31))
    loaded = load(f"math:{tmp_path}")
    assert (len(loaded.training), len(loaded.held_out)) == (20, 2)
    alone = load(f"math:{tmp_path}@train")
    assert (len(alone.training), len(alone.held_out)) == (18, 2)
    other = load(f"math:{tmp_path}@train", held_out=f"math:{tmp_path}@test")
    assert other.held_out == loaded.held_out
    with pytest.raises(SettingsError, match=r"has no split 'dev'; it has test, train"):
        load(f"math:{tmp_path}@dev")
    write(tmp_path / "more.jsonl", problem(40))
    with pytest.raises(SettingsError, match=r"has the splits test, train and files of no split; name one, as .*@train"):
        load(f"math:{tmp_path}")


# ------------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("source", ["hf:nobody/nothing", "math:nobody/nothing:main@test"])
def test_a_name_that_the_hub_does_not_give_is_a_sentence(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=r"tasks\.source: there is no file or folder nobody/nothing.*hub gives no"):
        load(source)


@pytest.mark.parametrize("source", ["math:no/such/file.jsonl", "math:/no/such", "no.parquet", "math:no.json"])
def test_a_file_that_is_not_there_is_a_sentence(source: str) -> None:
    with pytest.raises(SettingsError, match=r"tasks\.source: Task file .* cannot be read: No such file"):
        load(source)


@pytest.mark.parametrize("name", ["rows.parquet", "owner/name"])
def test_without_the_library_the_sentence_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.split(".")[0] in ("datasets", "pyarrow"):
            raise ImportError(module)
        return real(module, *rest)

    (tmp_path / "rows.parquet").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'vpd\[data\]'"):
        load(f"math:{name}")


def test_a_broken_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SettingsError, match=r"rows\.parquet cannot be read as Parquet"):
        load(f"math:{tmp_path / 'rows.parquet'}")


def test_prompts_over_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [problem(i) for i in range(5)] + [problem(9, problem="x" * 500)]
    loaded = load(f"math:{write(tmp_path / 'a.jsonl', *rows)}", max_prompt_chars=300)
    assert len(tasks_of(loaded)) == 5
    assert loaded.readings[0].left_out == {"a prompt over tasks.max_prompt_chars": 1}
