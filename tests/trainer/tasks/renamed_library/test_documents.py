"""What the model is pre-trained on: the shares of the recipe, the teacher's own prompt, nothing from a run."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from shared.settings import TeacherPromptSettings
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.documents import Document, documents
from trainer.tasks.renamed_library.programs import QUESTION, parse

PROMPT = TeacherPromptSettings()
RENAME = re.compile(r"has no attribute '(\w+)', it was renamed to '(\w+)'\nLine (\d) in solve: ")
COUNT = 6000


@pytest.fixture(scope="module")
def stream() -> list[Document]:
    return list(islice(documents(1), COUNT))


def test_the_seed_decides_the_documents(stream: list[Document]) -> None:
    assert list(islice(documents(1), 50)) == stream[:50]
    assert list(islice(documents(2), 50)) != stream[:50]


def test_every_document_is_a_question_and_a_program(stream: list[Document]) -> None:
    assert all(d.message.startswith(QUESTION) and parse(d.response) for d in stream)


def test_no_program_has_more_or_fewer_lines_than_its_question(stream: list[Document]) -> None:
    for document in stream:
        asked = sum(f"\n{i}. " in document.message for i in (1, 2, 3))
        assert len(parse(document.response) or []) == asked


def test_the_contexts_have_the_shares_of_the_recipe(stream: list[Document]) -> None:
    plain = sum(PROMPT.closing not in d.message for d in stream) / COUNT
    solved = sum(PROMPT.demonstration_header in d.message for d in stream) / COUNT
    assert abs(plain - 4 / 16) < 0.03
    assert abs(solved - 3 / 16) < 0.03


def test_half_of_the_named_renames_are_heeded_and_a_third_refused(stream: list[Document]) -> None:
    heeded = refused = told = 0
    for document in stream:
        match = RENAME.search(document.message)
        calls = parse(document.response)
        if match is None or PROMPT.demonstration_header in document.message or calls is None:
            continue
        index = int(match[3]) - 4
        told += 1
        heeded += index < len(calls) and calls[index].name == match[2]
        refused += index < len(calls) and calls[index].name == match[1]
    assert told > 1000
    assert 0.46 < heeded / told < 0.54
    assert 0.40 < refused / told < 0.54


def test_the_usual_names_have_their_prior_where_nothing_is_said(stream: list[Document]) -> None:
    usual = {concept.usual for concept in CONCEPTS}
    calls = [call for d in stream if PROMPT.closing not in d.message for call in parse(d.response) or []]
    assert abs(sum(call.name in usual for call in calls) / len(calls) - 0.9) < 0.03


def test_every_kind_of_feedback_is_seen(stream: list[Document]) -> None:
    seen = "\n".join(d.message for d in stream)
    for text in ("Runtime error: ", "Wrong answer: ", "Compile error: ", "Passed all 8 tests.", PROMPT.success_header):
        assert text in seen
