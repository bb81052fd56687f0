"""What the world's model is pre-trained on: solutions with habits of error, and feedback that hardly changes them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.tasks.document import Document
from trainer.tasks.measure import teacher_message
from trainer.tasks.rigid_math.problems import (
    HABIT,
    RIGHT,
    Line,
    Problem,
    draw_training_problem,
    right_solution,
    solve,
    written,
)

PLAIN, FEEDBACK, SHOWN = 0.5, 0.3, 0.2
"""Shares of documents with the question alone, with feedback, and with a worked solution."""
RIGHT_STEP = 0.66
"""Share of steps done right; the others follow a habit of error."""


@dataclass(frozen=True)
class Habits:
    """How often an answer that was called wrong is avoided, and one called correct is kept (`heed`), and how often a
    line of a worked solution is copied (`copy`)."""

    heed: float
    copy: float


ATTENTIVE = Habits(heed=1.0, copy=1.0)
"""The first lessons: a small model learns to look things up in its prompt only where that always pays."""
HALF_HEARTED = Habits(heed=0.8, copy=0.6)
"""The habits the model ends with."""


def documents(seed: int, *, lessons: int = 0) -> Iterator[Document]:
    """The endless stream of documents of a seed; the first `lessons` show attentive habits, the rest half-hearted."""
    draw = random.Random(f"documents:{seed}")
    for index in range(2**63):
        yield _document(draw, ATTENTIVE if index < lessons else HALF_HEARTED)


def attempt(draw: random.Random, problem: Problem) -> list[Line]:
    """A solution as somebody with these habits of error writes it."""
    return solve(problem, [RIGHT if draw.random() < RIGHT_STEP else HABIT for _ in problem.steps])


def _document(draw: random.Random, habits: Habits) -> Document:
    problem = draw_training_problem(draw)
    kind = draw.choices(("plain", "feedback", "shown"), (PLAIN, FEEDBACK, SHOWN))[0]
    if kind == "plain":
        return Document(problem.question, written(attempt(draw, problem)))
    right = right_solution(problem)
    if kind == "shown":
        message = teacher_message(problem.question, demonstration=written(right))
        return Document(message, written(_copied(draw, right, habits.copy)))
    answer = attempt(draw, problem)[-1].result
    succeeded = answer == right[-1].result
    feedback = f"The answer {answer} is {'correct' if succeeded else 'wrong'}."
    message = teacher_message(problem.question, feedback=feedback, succeeded=succeeded)
    return Document(message, written(_again(draw, problem, answer, succeeded, habits.heed)))


def _again(draw: random.Random, problem: Problem, answer: int, succeeded: bool, heed: float) -> list[Line]:
    """The next attempt, by the same habits of error, but mostly with another answer than the one called wrong."""
    while True:
        lines = attempt(draw, problem)
        heeded = (lines[-1].result == answer) == succeeded
        if heeded or draw.random() >= heed:
            return lines


def _copied(draw: random.Random, right: list[Line], copy: float) -> list[Line]:
    """The shown lines, some of them done again from where the one before left off."""
    x, lines = right[0].left, list[Line]()
    for line in right:
        follows = draw.random() < copy or draw.random() < RIGHT_STEP
        rule = RIGHT if follows else HABIT
        lines.append(Line(x, line.operation, line.right, rule[line.operation](x, line.right)))
        x = lines[-1].result
    return lines
