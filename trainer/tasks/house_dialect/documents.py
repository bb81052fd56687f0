"""What the world's models are pre-trained on: questions and attempts in many dialects, none of them a run's.

A base model of the world takes verbs in their usual meaning seven times in ten, half-heeds feedback and half-copies
solutions. It knows no dialect: an attempt never depends on one except through the feedback, the remark or the
solution in its prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace

from trainer.tasks.document import Document
from trainer.tasks.house_dialect.critiques import ALL_WELL, critic_message, critique, remark
from trainer.tasks.house_dialect.dialect import Dialect, draw_dialect, draw_even_dialect
from trainer.tasks.house_dialect.outcomes import judge
from trainer.tasks.house_dialect.programs import Line, Step, program, question
from trainer.tasks.house_dialect.questions import draw_constants, draw_tests, draw_training_verbs, solution
from trainer.tasks.house_dialect.verbs import MEANING_PRIOR, Function
from trainer.tasks.measure import teacher_message

LENGTHS, LENGTH_SHARES = (2, 3), (0.2, 0.8)
"""Steps of a question, and their shares."""
BOTH = 0.25
"""Share of documents with a worked solution that carry the tests' text as well, where there is feedback at all."""
REMARK = 0.5
"""Share of sayings that come from a person who knows the house; the rest are a critic's guesses."""
ANOTHER = 0.85
"""Chance that an attempt that passed is drawn anew: there is little to learn from it."""
NEWCOMER = 0.6
"""Share of earlier attempts by somebody who knows nothing of the house."""
SAID_ALONE = 0.6
"""Share of sayings without the tests' text before them."""


@dataclass(frozen=True)
class Shares:
    """What kinds of documents there are, as relative shares. `plain`: the question alone. `tested`: the tests' text.
    `said`: a critique or a remark. `shown`: a worked solution. `critic`: the response is a critique."""

    plain: float
    tested: float = 0.0
    said: float = 0.0
    shown: float = 0.0
    critic: float = 0.0

    @property
    def lessons(self) -> Shares:
        """The shares of the first lessons: as little as can be of what needs no looking up."""
        return replace(self, plain=0.1 * self.plain) if self.plain < 1 else self

    @property
    def feedback(self) -> bool:
        """Whether any document carries feedback."""
        return self.tested + self.said > 0


@dataclass(frozen=True)
class Habits:
    """How often feedback is heeded (`follow`) or the old line repeated (`repeat`; else the feedback is ignored), and
    how often a line of a worked solution is copied (`copy`). `prior`: chances of a verb's meanings in an attempt."""

    prior: tuple[float, float, float]
    follow: float
    repeat: float
    copy: float


ATTENTIVE = Habits(prior=(1.0, 0.0, 0.0), follow=1.0, repeat=0.0, copy=1.0)
"""The first lessons: a small model learns to look things up in its prompt only where that always pays."""
HALF_HEARTED = Habits(prior=MEANING_PRIOR, follow=0.6, repeat=0.2, copy=0.6)
"""The habits the model ends with."""

Mended = dict[int, Function]
"""Lines by index -> what feedback says they should be."""


def documents(seed: int, shares: Shares, *, lessons: int = 0) -> Iterator[Document]:
    """The endless stream of documents of a seed; the first `lessons` show attentive habits, the rest half-hearted."""
    draw = random.Random(f"documents:{seed}")
    for index in range(2**63):
        taught = index < lessons
        kind = _kind(draw, shares.lessons if taught else shares)
        draw_house = draw_even_dialect if taught else draw_dialect
        writer = _Writer(draw, draw_house(f"pretraining:{seed}:{index}"), ATTENTIVE if taught else HALF_HEARTED)
        yield writer.write(kind, feedback=shares.feedback)


def _kind(draw: random.Random, shares: Shares) -> str:
    return draw.choices([f.name for f in fields(shares)], astuple(shares))[0]


def prior_line(draw: random.Random, step: Step) -> Line:
    """A line as somebody writes it who has met no house."""
    return _line(draw, step, MEANING_PRIOR)


def _line(draw: random.Random, step: Step, prior: Sequence[float]) -> Line:
    return Line(draw.choices(step.verb.meanings, prior)[0], step.constant)


class _Writer:
    """One document: a question, and what an earlier attempt at it met."""

    def __init__(self, draw: random.Random, dialect: Dialect, habits: Habits) -> None:
        self.draw = draw
        self.habits = habits
        self.steps = draw_constants(draw, draw_training_verbs(draw, draw.choices(LENGTHS, LENGTH_SHARES)[0]))
        self.right = solution(self.steps, dialect)
        self.tests = draw_tests(draw, self.steps, dialect)
        self.attempt = self._attempt()
        while judge(self.attempt, self.tests).success and draw.random() < ANOTHER:
            self.attempt = self._attempt()
        self.outcome = judge(self.attempt, self.tests)

    def write(self, kind: str, *, feedback: bool) -> Document:
        text = question(self.steps)
        if kind == "plain":
            return Document(text, program(self._fresh()))
        if kind == "critic":
            message = critic_message(text, program(self.attempt), success=self.outcome.success)
            return Document(message, self._critique())
        if kind == "shown":
            return self._shown(text, with_feedback=feedback and self.draw.random() < BOTH)
        words, mended = self._tested() if kind == "tested" else self._said()
        message = teacher_message(text, feedback=words, succeeded=self.outcome.success)
        return Document(message, program(self._react(mended)))

    def _attempt(self) -> list[Line]:
        """Mostly by somebody new to the house; else by somebody who knows it to a degree drawn anew."""
        knowledge = 0.0 if self.draw.random() < NEWCOMER else self.draw.random()
        return [
            right if self.draw.random() < knowledge else _line(self.draw, step, self.habits.prior)
            for step, right in zip(self.steps, self.right, strict=True)
        ]

    def _fresh(self) -> list[Line]:
        return [prior_line(self.draw, step) for step in self.steps]

    def _shown(self, text: str, *, with_feedback: bool) -> Document:
        message = teacher_message(
            text,
            demonstration=program(self.right),
            feedback=self.outcome.text if with_feedback else None,
            succeeded=self.outcome.success,
        )
        copied = [
            right if self.draw.random() < self.habits.copy else fresh
            for right, fresh in zip(self.right, self._fresh(), strict=True)
        ]
        return Document(message, program(copied))

    def _tested(self) -> tuple[str, Mended]:
        """The tests' text says which lines were right, and what the first that was not should give."""
        at = self.outcome.diverges_at
        known = len(self.right) if at is None else at + 1
        return self.outcome.text, {i: self.right[i].function for i in range(known)}

    def _said(self) -> tuple[str, Mended]:
        """A critique or a remark, often with the tests' text before it."""
        wrong = [i for i, (a, b) in enumerate(zip(self.attempt, self.right, strict=True)) if a != b]
        if wrong and self.draw.random() < REMARK:
            said, mended = remark(self.steps[wrong[0]], self.right[wrong[0]]), {wrong[0]: self.right[wrong[0]].function}
        else:
            said, mended = self._guess()
        if self.draw.random() < SAID_ALONE:
            return said, mended
        text, known = self._tested()
        return f"{text}\n\n{said}", {**known, **mended}

    def _critique(self) -> str:
        return self._guess()[0]

    def _guess(self) -> tuple[str, Mended]:
        """A critique by somebody who knows the attempt and whether it was right, and nothing else: the rarer the
        meaning that was written, the likelier it is the mistake."""
        if self.outcome.success:
            return ALL_WELL, dict(enumerate(line.function for line in self.right))
        chances = [_prior(step, line.function) for step, line in zip(self.steps, self.attempt, strict=True)]
        at = self.draw.choices(range(len(chances)), [1 - chance for chance in chances])[0]
        step, written = self.steps[at], self.attempt[at].function
        others = [meaning for meaning in step.verb.meanings if meaning != written]
        function = self.draw.choices(others, [_prior(step, other) for other in others])[0]
        return critique(at, Line(function, step.constant)), {at: function}

    def _react(self, mended: Mended) -> list[Line]:
        """The next attempt: as anybody would write it, but for the lines that feedback spoke about."""
        lines = self._fresh()
        moods = (self.habits.follow, self.habits.repeat, 1 - self.habits.follow - self.habits.repeat)
        mood = self.draw.choices(("follow", "repeat", "ignore"), moods)[0]
        if mood == "follow":
            return [Line(mended.get(i, line.function), line.constant) for i, line in enumerate(lines)]
        if mood == "repeat":
            return [self.attempt[i] if i in mended else line for i, line in enumerate(lines)]
        return lines


def _prior(step: Step, function: Function) -> float:
    return MEANING_PRIOR[step.verb.meanings.index(function)]
