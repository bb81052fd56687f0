"""Questions of the world: held-out combinations stay out, tests notice other meanings, seeds decide."""

from __future__ import annotations

import json
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.extract import extract_program
from shared.protocol import Task
from trainer.tasks.cold_start.task_set import ColdStart
from trainer.tasks.house_dialect.dialect import world_dialect
from trainer.tasks.house_dialect.documents import Shares, documents
from trainer.tasks.house_dialect.outcomes import judge
from trainer.tasks.house_dialect.programs import Line, Step, asked, parse, program, question
from trainer.tasks.house_dialect.questions import HELD_OUT, draw_checked, held_out_combinations, solution
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.house_dialect.verbs import CONSTANTS, FUNCTIONS, VERBS
from trainer.tasks.outcome_only.task_set import OutcomeOnly

STEPS = st.builds(Step, st.sampled_from(VERBS), st.sampled_from(CONSTANTS))
LINES = st.builds(Line, st.sampled_from(FUNCTIONS), st.integers(0, 9))


def combination(text: str) -> frozenset[str]:
    return frozenset(step.verb.name for step in asked(text))


def verbs_of(task: Task) -> frozenset[str]:
    return combination(task.messages[-1].content)


def test_held_out_tasks_are_300_different_combinations_of_three() -> None:
    combinations = [verbs_of(task) for task in HouseDialect(world_seed=0, seed=1).held_out(1000)]
    assert len(combinations) == len(set(combinations)) == HELD_OUT
    assert set(combinations) == held_out_combinations()


@given(seed=st.integers(0, 2**31 - 1), step=st.integers(0, 10_000), world_seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_no_training_task_is_a_held_out_combination(seed: int, step: int, world_seed: int) -> None:
    tasks = HouseDialect(world_seed=world_seed, seed=seed).training(step, 16)
    assert not {verbs_of(task) for task in tasks} & held_out_combinations()
    assert len({task.id for task in tasks}) == 16


def test_no_document_of_pre_training_is_a_held_out_combination() -> None:
    seen = {combination(document.message) for document in islice(documents(1, Shares(plain=1)), 5000)}
    assert not seen & held_out_combinations()
    assert len(seen) > 1000


def test_a_step_is_a_function_of_seed_and_step() -> None:
    one, other = HouseDialect(world_seed=0, seed=5), HouseDialect(world_seed=0, seed=5)
    other.training(3, 2)
    assert one.training(8, 16) == other.training(8, 16)
    assert one.training(8, 16) != one.training(9, 16)
    assert one.training(8, 16) != HouseDialect(world_seed=0, seed=6).training(8, 16)


def test_the_worlds_of_houses_ask_the_same_questions_under_ids_of_their_own() -> None:
    sets = [world(world_seed=3, seed=2) for world in (HouseDialect, OutcomeOnly, ColdStart)]
    tasks = [[*one.training(4, 5), *one.held_out(5)] for one in sets]
    assert all([t.messages for t in some] == [t.messages for t in tasks[0]] for some in tasks)
    assert len({task.id for some in tasks for task in some}) == 30


@pytest.mark.parametrize("seed", range(3))
def test_the_tests_pass_the_houses_meanings_and_notice_every_other_meaning_of_one_verb(seed: int) -> None:
    draw, dialect = random.Random(seed), world_dialect(seed)
    for _ in range(100):
        steps, tests = draw_checked(draw, draw.sample(VERBS, 3), dialect)
        right = solution(steps, dialect)
        assert judge(right, tests).success
        for i, step in enumerate(steps):
            for meaning in step.verb.meanings:
                other = [*right[:i], Line(meaning, step.constant), *right[i + 1 :]]
                assert judge(other, tests).success == (other == right)


def test_python_gives_the_expected_values_for_a_solution() -> None:
    world = HouseDialect(world_seed=2, seed=1)
    for task in world.held_out(20):
        names: dict[str, object] = {}
        exec(extract_program(world.solution(task)).program or "", names)
        for test in task.reference["tests"]:
            arguments = [json.loads(line) for line in test["input"].split("\n")]
            assert json.dumps(names["solve"](*arguments)) == test["output"]  # type: ignore[operator]


@given(st.lists(STEPS, max_size=3))
def test_a_question_is_read_back_as_it_was_asked(steps: list[Step]) -> None:
    assert asked(question(steps)) == steps


@given(st.lists(LINES, max_size=4))
def test_a_program_is_read_back_as_it_was_written(lines: list[Line]) -> None:
    assert parse(program(lines)) == lines


@given(st.lists(LINES, max_size=3), st.integers(0, 200), st.sampled_from(["", " ", "\n", "2", ")", "\u2028", "é"]))
def test_a_program_that_was_touched_is_read_as_none_or_as_what_it_then_says(
    lines: list[Line], at: int, put: str
) -> None:
    text = program(lines)
    touched = text[:at] + put + text[at + 1 :]
    read = parse(touched)
    assert read is None or program(read) == touched
