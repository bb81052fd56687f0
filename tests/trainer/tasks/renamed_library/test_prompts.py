"""Questions of the world: held-out combinations stay out, tests notice wrong functions, seeds decide."""

from __future__ import annotations

import json
import random
import types
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.protocol import Task
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.documents import documents
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.outcomes import judge
from trainer.tasks.renamed_library.programs import Call, parse, program
from trainer.tasks.renamed_library.prompts import HELD_OUT, draw_checked, held_out_combinations
from trainer.tasks.renamed_library.task_set import RenamedLibrary

LONGEST_PHRASE_FIRST = sorted(CONCEPTS, key=lambda concept: -len(concept.phrase))


def combination(question: str) -> frozenset[str]:
    """The usual names of the concepts a question lists, read from its text."""
    lines = [line.split(". ", 1)[1] for line in question.splitlines() if line[:3] in ("1. ", "2. ", "3. ")]
    return frozenset(next(c.usual for c in LONGEST_PHRASE_FIRST if line[:-2] == c.phrase) for line in lines)


def asked(task: Task) -> frozenset[str]:
    return combination(task.messages[-1].content)


def test_held_out_tasks_are_300_different_combinations_of_three() -> None:
    combinations = [asked(task) for task in RenamedLibrary(world_seed=0, seed=1).held_out(1000)]
    assert len(combinations) == len(set(combinations)) == HELD_OUT
    assert set(combinations) == held_out_combinations()
    assert all(len(names) == 3 for names in combinations)


@given(seed=st.integers(0, 2**31 - 1), step=st.integers(0, 10_000), world_seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_no_training_task_is_a_held_out_combination(seed: int, step: int, world_seed: int) -> None:
    tasks = RenamedLibrary(world_seed=world_seed, seed=seed).training(step, 16)
    assert not {asked(task) for task in tasks} & held_out_combinations()
    assert len({task.id for task in tasks}) == 16


def test_no_document_of_pre_training_is_a_held_out_combination() -> None:
    seen = {combination(document.message) for document in islice(documents(1), 5000)}
    assert not seen & held_out_combinations()
    assert len(seen) > 1000


def test_a_step_is_a_function_of_seed_and_step() -> None:
    one, other = RenamedLibrary(world_seed=0, seed=5), RenamedLibrary(world_seed=0, seed=5)
    other.training(3, 2)
    assert one.training(8, 16) == other.training(8, 16)
    assert one.training(8, 16) != one.training(9, 16)
    assert one.training(8, 16) != RenamedLibrary(world_seed=0, seed=6).training(8, 16)


def test_the_library_changes_the_answers_key_and_not_the_held_out_questions_number() -> None:
    one, other = (RenamedLibrary(world_seed=w, seed=1).held_out(5) for w in (0, 1))
    assert one[0].reference["files"] != other[0].reference["files"]
    assert RenamedLibrary(world_seed=0, seed=2).held_out(5) == one


def test_a_fifth_of_the_training_tasks_have_two_steps_and_the_rest_three() -> None:
    tasks = RenamedLibrary(world_seed=0, seed=1)
    lengths = [len(asked(task)) for step in range(60) for task in tasks.training(step, 16)]
    assert set(lengths) == {2, 3}
    assert 0.15 < lengths.count(2) / len(lengths) < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_the_tests_pass_the_real_names_and_notice_every_single_wrong_function(seed: int) -> None:
    draw = random.Random(seed)
    library = world_library(seed)
    for _ in range(40):
        steps, tests = draw_checked(draw, draw.sample(CONCEPTS, 3))
        right = [Call(library.real(s.concept), s.constant) for s in steps]
        assert judge(right, library, tests).success
        for i, call in enumerate(right):
            for name in set(library.by_name) - {call.name}:
                wrong = [*right[:i], Call(name, call.constant), *right[i + 1 :]]
                assert not judge(wrong, library, tests).success


def test_a_task_is_judged_by_python_against_its_own_library() -> None:
    library = world_library(2)
    for task in RenamedLibrary(world_seed=2, seed=1).held_out(20):
        lib = types.ModuleType("lib")
        exec(task.reference["files"]["lib.py"], lib.__dict__)
        real = {c.usual: library.real(c) for c in CONCEPTS}
        steps = task.id.rsplit("-", 1)[1].split(".")
        for test in task.reference["tests"]:
            x = json.loads(test["input"])
            for step in steps:
                x = getattr(lib, real[step[:-1]])(x, int(step[-1]))
            assert json.dumps(x) == test["output"]


@given(st.lists(st.tuples(st.sampled_from(["add", "plus", "nonsense", "x_1"]), st.integers(2, 5)), max_size=4))
def test_a_program_is_read_back_as_it_was_written(lines: list[tuple[str, int]]) -> None:
    calls = [Call(*line) for line in lines]
    assert parse(program(calls)) == calls


@given(st.text())
def test_text_that_is_no_program_is_read_as_none(text: str) -> None:
    assert parse(text) is None
