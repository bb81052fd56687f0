"""What the world's model is pre-trained on: habits, the critic's own prompt, nothing from a run."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from shared.settings import TeacherPromptSettings
from trainer.tasks.document import Document
from trainer.tasks.house_dialect.critiques import ALL_WELL, critic_phrases
from trainer.tasks.house_dialect.documents import Shares, documents
from trainer.tasks.house_dialect.programs import asked, parse, values
from trainer.tasks.house_dialect.recipe import SHARES
from trainer.tasks.house_dialect.verbs import FUNCTIONS

PROMPT = TeacherPromptSettings()
COUNT = 6000
SAID = re.compile(r"Line (\d) should be (.*)(\d)\.\n\nCorrectly")
REMARK = re.compile(r"In this house (\w+ by \d) means (.*)(\d)\.")
FAILED = re.compile(r"Input:\n(\d+)\n(\d)\nOutput: \d+\nExpected: (\d+)\n\nCorrectly")


@pytest.fixture(scope="module")
def stream() -> list[Document]:
    return list(islice(documents(1, SHARES), COUNT))


def lines_of(document: Document) -> list[str]:
    lines = parse(document.response)
    assert lines is not None
    return [line.function.expression for line in lines]


def test_the_seed_decides_the_documents(stream: list[Document]) -> None:
    assert list(islice(documents(1, SHARES), 50)) == stream[:50]
    assert list(islice(documents(2, SHARES), 50)) != stream[:50]


def test_a_response_is_a_program_of_as_many_lines_as_steps_or_a_critique(stream: list[Document]) -> None:
    critiques = 0
    for document in stream:
        if document.message.startswith(critic_phrases()[0]):
            critiques += 1
            assert document.response == ALL_WELL or re.fullmatch(r"Line [123] should be .*\d\.", document.response)
        else:
            assert len(lines_of(document)) == len(asked(document.message))
    assert abs(critiques / COUNT - SHARES.critic) < 0.02


def test_verbs_have_their_usual_meaning_seven_times_in_ten_where_nothing_is_said(stream: list[Document]) -> None:
    usual = total = 0
    for document in islice(documents(3, Shares(plain=1)), 3000):
        for step, function in zip(asked(document.message), lines_of(document), strict=True):
            usual += step.verb.meanings[0].expression == function
            total += 1
    assert abs(usual / total - 0.7) < 0.02


@pytest.mark.parametrize(("lessons", "low", "high"), [(0, 0.62, 0.76), (COUNT, 1.0, 1.0)])
def test_a_critique_is_heeded_by_two_in_three_and_in_the_lessons_by_all(lessons: int, low: float, high: float) -> None:
    heeded = told = 0
    for document in islice(documents(1, Shares(plain=0, said=1), lessons=lessons), COUNT):
        match = SAID.search(document.message)
        if match is not None:
            told += 1
            heeded += lines_of(document)[int(match[1]) - 1] == match[2]
    assert told > 1000
    assert low <= heeded / told <= high


def test_a_remark_names_a_meaning_the_verb_can_have(stream: list[Document]) -> None:
    expressions = {function.expression for function in FUNCTIONS}
    remarks = [match for document in stream if (match := REMARK.search(document.message))]
    assert len(remarks) > 100
    assert all(match[2] in expressions for match in remarks)


def test_in_the_lessons_the_lines_up_to_the_failed_step_give_the_expected_value() -> None:
    followed = 0
    for document in islice(documents(1, Shares(plain=0, tested=1), lessons=COUNT), 2000):
        match = FAILED.search(document.message)
        if match is None:
            continue
        x, step, expected = map(int, match.groups())
        assert values(parse(document.response) or [], x)[step - 1] == expected
        followed += 1
    assert followed > 1000


def test_a_world_without_feedback_has_none_in_its_documents() -> None:
    seen = "\n".join(document.message for document in islice(documents(1, Shares(plain=0.6, shown=0.4)), 2000))
    assert PROMPT.demonstration_header in seen
    assert PROMPT.feedback_header not in seen
    assert PROMPT.success_header not in seen
