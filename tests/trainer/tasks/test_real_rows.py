"""The real rows of the benchmarks: all of them load, are accounted for, and render to prompts."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmark_rows import DATA, real_data
from tiny_model import make_tiny_model

from services.inference.text import Text
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks.sources import Loaded, load_data

pytestmark = real_data


def load(source: str, held_out: str | None = None) -> Loaded:
    return load_data(TaskSettings(source=source.format(DATA), held_out=held_out and held_out.format(DATA)))


def accounted_for(loaded: Loaded) -> bool:
    rows = sum(reading.rows for reading in loaded.readings)
    left_out = sum(reading.left_out.total() for reading in loaded.readings)
    tasks = [*loaded.training, *loaded.held_out]
    assert not loaded.mistakes
    assert len({task.id for task in tasks}) == len({task.messages[-1].content for task in tasks}) == len(tasks)
    return rows == len(tasks) + left_out


def test_all_131_questions_of_livecodebench_load() -> None:
    loaded = load("livecodebench:{}/livecodebench_v6.jsonl")
    assert accounted_for(loaded)
    assert (loaded.readings[0].rows, len(loaded.training), len(loaded.held_out)) == (131, 118, 13)
    kinds = Counter(task.kind for task in (*loaded.training, *loaded.held_out))
    assert kinds == {"code.stdin": 82, "code.functional": 49}


def test_all_4335_rows_of_sciknoweval_load_and_the_one_in_both_splits_is_not_trained_on() -> None:
    loaded = load("sciknoweval:{}/sciknoweval")
    assert accounted_for(loaded)
    assert [reading.rows for reading in loaded.readings] == [3901, 434]
    assert loaded.readings[0].left_out == {"a held-out question": 1} and not loaded.readings[1].left_out
    domains = Counter(task.id.split("-")[1] for task in (*loaded.training, *loaded.held_out))
    assert domains == {"biology": 500, "chemistry": 2100, "material": 934, "physics": 800}


@pytest.mark.parametrize(("held_out", "count"), [("math500", 500), ("aime24", 30)])
def test_all_rows_of_math500_and_aime_load(held_out: str, count: int) -> None:
    loaded = load("math:{}/aime25.jsonl", f"math:{{}}/{held_out}.jsonl")
    assert accounted_for(loaded)
    assert (len(loaded.training), len(loaded.held_out)) == (30, count)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    text = Text(str(make_tiny_model(tmp_path_factory.mktemp("model"))))
    text.load()
    return text


@pytest.mark.parametrize(
    "source", ["livecodebench:{}/livecodebench_v6.jsonl", "sciknoweval:{}/sciknoweval", "math:{}/math500.jsonl"]
)
def test_every_prompt_holds_its_question_between_its_role_and_the_generation_header(source: str, text: Text) -> None:
    loaded = load(source)
    for task in (*loaded.training, *loaded.held_out)[:: 1 if len(loaded.training) < 1000 else 9]:
        assert text.decode(text.render(task.messages)) == shown(task)
        assert text.render(task.messages)[-1] == text.encode("<|assistant|>")[0]


def shown(task: Task) -> str:
    """What the tiny model's template leaves of a chat once special tokens are gone."""
    return "".join(message.content for message in task.messages)
