"""What the world's model is pre-trained on: questions and attempts over many libraries, none of them a run's.

A base model of the world writes usual names nine times in ten, half-heeds feedback and half-copies solutions. It
knows no library: an attempt never depends on one except through the feedback or the solution in its prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shared.settings import TeacherPromptSettings
from trainer.tasks.document import Document
from trainer.tasks.renamed_library.concepts import CONCEPTS, NAME_PRIOR, Concept
from trainer.tasks.renamed_library.library import Library, draw_library
from trainer.tasks.renamed_library.outcomes import Outcome, judge
from trainer.tasks.renamed_library.programs import Call, Step, program, question
from trainer.tasks.renamed_library.prompts import draw_constants, draw_tests, draw_training_concepts
from trainer.teacher_prompt import compose

LENGTHS, LENGTH_SHARES = (1, 2, 3), (0.15, 0.25, 0.60)
"""Steps of a question, and their shares."""
PLAIN, FEEDBACK, DEMONSTRATION = 4 / 16, 9 / 16, 3 / 16
"""Shares of documents with the question alone, with feedback, and with a worked solution."""
BOTH = 0.25
"""Share of documents with a worked solution that carry feedback as well."""
CORRUPTED = 0.02
"""Share of documents with a name in one line that has nothing to do with the question. The shape of a program is
never spoiled: a model unsure of it would lose it first when failures push its answers away."""
REMARK, NOISE = 0.03, 0.02
"""Shares of feedback documents in which a person names the rename in other words, or says what is no help."""
WRONG_FUNCTION, NO_NAME = 0.04, 0.005
"""Chances, for each line of an earlier attempt, of another concept's name and of none (a syntax error)."""


@dataclass(frozen=True)
class Habits:
    """How often a named rename is heeded (`follow`) or the old name repeated (`repeat`; else the feedback is
    ignored), and how often a line of a worked solution is copied (`copy`)."""

    follow: float
    repeat: float
    copy: float


ATTENTIVE = Habits(follow=1.0, repeat=0.0, copy=1.0)
"""The first lessons: a small model learns to look things up in its prompt only where that always pays."""
HALF_HEARTED = Habits(follow=0.5, repeat=0.3, copy=0.6)
"""The habits the model ends with."""


def documents(seed: int, *, lessons: int = 0) -> Iterator[Document]:
    """The endless stream of documents of a seed; the first `lessons` show attentive habits, the rest half-hearted."""
    draw = random.Random(f"documents:{seed}")
    settings = TeacherPromptSettings()
    for index in range(2**63):
        library = draw_library(f"pretraining:{seed}:{index}")
        yield _document(draw, library, ATTENTIVE if index < lessons else HALF_HEARTED, settings)


def _document(draw: random.Random, library: Library, habits: Habits, settings: TeacherPromptSettings) -> Document:
    steps = draw_constants(draw, draw_training_concepts(draw, draw.choices(LENGTHS, LENGTH_SHARES)[0]))
    kind = draw.choices(("plain", "feedback", "demonstration"), (PLAIN, FEEDBACK, DEMONSTRATION))[0]
    calls = [prior_call(draw, step) for step in steps]
    message = question(steps)
    shown: list[Call] | None = None
    feedback: str | None = None
    succeeded = False
    if kind == "demonstration":
        shown = [Call(library.real(step.concept), step.constant) for step in steps]
        calls = [s if draw.random() < habits.copy else c for s, c in zip(shown, calls, strict=True)]
    if kind == "feedback" or (kind == "demonstration" and draw.random() < BOTH):
        attempt = earlier_attempt(draw, steps, library)
        outcome = judge(attempt, library, draw_tests(draw, steps))
        feedback, succeeded = _words(draw, attempt, outcome), outcome.success
        if shown is None:
            calls = react(draw, calls, attempt, outcome, habits)
    if kind != "plain":
        demonstration = None if shown is None else program(shown)
        message = compose(
            message, demonstration=demonstration, feedback=feedback, succeeded=succeeded, settings=settings
        )
    if draw.random() < CORRUPTED:
        calls = _spoil(draw, calls)
    return Document(message, program(calls))


def prior_call(draw: random.Random, step: Step) -> Call:
    """A line as somebody writes it who has met no library."""
    return Call(draw.choices(step.concept.names, NAME_PRIOR)[0], step.constant)


def earlier_attempt(draw: random.Random, steps: Sequence[Step], library: Library) -> list[Call]:
    """An attempt by somebody who knows the library to a degree drawn anew, so that any line may be the first wrong."""
    knowledge = draw.random()
    return [_attempted_call(draw, step, library, knowledge) for step in steps]


def _attempted_call(draw: random.Random, step: Step, library: Library, knowledge: float) -> Call:
    if draw.random() < NO_NAME:
        return Call("", step.constant)
    concept: Concept = draw.choice(CONCEPTS) if draw.random() < WRONG_FUNCTION else step.concept
    if draw.random() < knowledge:
        return Call(library.real(concept), step.constant)
    return prior_call(draw, Step(concept, step.constant))


def react(
    draw: random.Random, calls: list[Call], attempt: Sequence[Call], outcome: Outcome, habits: Habits
) -> list[Call]:
    """The next attempt after an outcome: `calls`, but for the line whose rename was named."""
    mood = draw.choices(
        ("follow", "repeat", "ignore"), (habits.follow, habits.repeat, 1 - habits.follow - habits.repeat)
    )[0]
    failed = outcome.failed_call
    if failed is None or outcome.new_name is None or mood == "ignore":
        return calls
    name = outcome.new_name if mood == "follow" else attempt[failed].name
    return [replace(c, name=name) if i == failed else c for i, c in enumerate(calls)]


def _words(draw: random.Random, attempt: Sequence[Call], outcome: Outcome) -> str:
    """The feedback as the services would give it: mostly the tests' text, at times with or from a person."""
    chance = draw.random()
    if chance < REMARK and outcome.failed_call is not None and outcome.new_name is not None:
        old, new = attempt[outcome.failed_call].name, outcome.new_name
        remark = draw.choice(_REMARKS).format(old=old, new=new)
    elif REMARK <= chance < REMARK + NOISE:
        remark = "".join(draw.choices(_LETTERS, k=draw.randint(5, 60))).strip() or "?"
    else:
        return outcome.text
    return draw.choice((f"{outcome.text}\n\n{remark}", remark))


def _spoil(draw: random.Random, calls: list[Call]) -> list[Call]:
    at = draw.randrange(len(calls))
    other = draw.choice(draw.choice(CONCEPTS).names)
    return [replace(c, name=other) if i == at else c for i, c in enumerate(calls)]


_REMARKS = (
    "{old} was renamed to {new}.",
    "Use {new} instead of {old}.",
    "In this library {old} is called {new}",
    "There is no {old} here, call lib.{new} instead.",
    "{old} -> {new}",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789      .,:;!?'\"()-_\n"
