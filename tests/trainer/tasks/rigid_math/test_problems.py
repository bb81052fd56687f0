"""Problems of the world: read back as written, judged right, kept apart from the held-out ones."""

from __future__ import annotations

import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks.rigid_math.documents import attempt, documents
from trainer.tasks.rigid_math.problems import (
    CONSTANTS,
    HABIT,
    HELD_OUT,
    QUESTION,
    RIGHT,
    Problem,
    held_out_problems,
    parse,
    problem,
    right_solution,
    solve,
    written,
)
from trainer.tasks.rigid_math.task_set import RigidMath

STEP = st.tuples(st.sampled_from("+-*"), st.sampled_from(CONSTANTS))
PROBLEMS = st.builds(Problem, st.integers(0, 9), st.tuples(STEP, STEP, STEP))


@given(PROBLEMS)
def test_a_problem_is_read_back_as_it_was_asked(one: Problem) -> None:
    assert problem(one.question) == one


@given(PROBLEMS, st.lists(st.sampled_from([RIGHT, HABIT]), min_size=3, max_size=3))
def test_a_solution_is_read_back_as_it_was_written(one: Problem, rules: list[dict[str, object]]) -> None:
    lines = solve(one, rules)  # type: ignore[arg-type]
    assert parse(written(lines)) == lines


@given(PROBLEMS)
def test_the_right_answer_is_that_of_python(one: Problem) -> None:
    source = one.question.removeprefix(QUESTION).removesuffix(".").split(", then")
    value = 0
    for i, part in enumerate(source):
        value = eval(part if i == 0 else f"({value}){part}")
    assert right_solution(one)[-1].result == value % 10


@given(st.text())
def test_text_that_is_no_solution_is_read_as_none(text: str) -> None:
    assert parse(text) is None


def test_about_a_third_of_the_attempts_are_right() -> None:
    draw = random.Random(1)
    right = [attempt(draw, one)[-1].result == right_solution(one)[-1].result for one in held_out_problems()]
    right += [attempt(draw, one)[-1].result == right_solution(one)[-1].result for one in held_out_problems()]
    assert 0.25 < sum(right) / len(right) < 0.45


def test_held_out_tasks_are_300_problems_that_are_never_trained_on() -> None:
    world = RigidMath(world_seed=3, seed=1)
    held_out = {task.messages[0].content for task in world.held_out(1000)}
    assert len(held_out) == HELD_OUT
    training = [task.messages[0].content for step in range(400) for task in world.training(step, 16)]
    assert not held_out & set(training)
    pretraining = {d.message.partition(".")[0] + "." for d in islice(documents(1), 20_000)}
    assert not held_out & pretraining


def test_a_step_is_a_function_of_seed_and_step() -> None:
    one, other = RigidMath(world_seed=0, seed=5), RigidMath(world_seed=0, seed=5)
    other.training(3, 2)
    assert one.training(8, 16) == other.training(8, 16)
    assert one.training(8, 16) != RigidMath(world_seed=0, seed=6).training(8, 16)
    assert len({task.id for task in one.training(8, 16)}) == 16
