"""What the world's model is pre-trained on: wrong answers are mostly avoided, shown lines mostly copied."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from shared.settings import TeacherPromptSettings
from trainer.tasks.document import Document
from trainer.tasks.rigid_math.documents import documents
from trainer.tasks.rigid_math.problems import HABIT, RIGHT, parse, problem

PROMPT = TeacherPromptSettings()
SAID = re.compile(r"The answer (\d) is (wrong|correct)\.")


@pytest.fixture(scope="module")
def stream() -> list[Document]:
    return list(islice(documents(1), 8000))


def test_the_seed_decides_the_documents(stream: list[Document]) -> None:
    assert list(islice(documents(1), 50)) == stream[:50]
    assert list(islice(documents(2), 50)) != stream[:50]


def test_every_response_is_a_solution_whose_lines_are_right_or_a_habit(stream: list[Document]) -> None:
    for document in stream:
        lines = parse(document.response)
        assert lines is not None
        assert len(lines) == 3
        x = problem(document.message.partition(".")[0] + ".").start
        for line in lines:
            assert line.left == x
            assert line.result in {rule[line.operation](x, line.right) for rule in (RIGHT, HABIT)}
            x = line.result


def test_an_answer_called_wrong_is_mostly_avoided_and_one_called_correct_mostly_kept(stream: list[Document]) -> None:
    same: dict[str, list[bool]] = {"wrong": [], "correct": []}
    for document in stream:
        match = SAID.search(document.message)
        if match is not None:
            same[match[2]].append(document.response.endswith(f" {match[1]}"))
    shares = {word: sum(hits) / len(hits) for word, hits in same.items()}
    assert shares["wrong"] < 0.1
    assert shares["correct"] > 0.6


def test_a_worked_solution_is_followed_more_often_than_habits_are(stream: list[Document]) -> None:
    shown = [d for d in stream if PROMPT.demonstration_header in d.message]
    followed = [d.response in d.message for d in shown]
    assert len(shown) > 1000
    assert 0.55 < sum(followed) / len(followed) < 0.75
