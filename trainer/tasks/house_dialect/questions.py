"""Which questions exist, which of them are held out, and the tests of each.

Combinations are sets of three verbs. The 300 whose digests are smallest are held out: no order of theirs, with
whatever constants, is ever a training prompt, in pre-training or after it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations

from trainer.tasks.house_dialect.dialect import Dialect
from trainer.tasks.house_dialect.outcomes import Test, judge
from trainer.tasks.house_dialect.programs import Line, Step, values
from trainer.tasks.house_dialect.verbs import CONSTANTS, VERBS, Verb

HELD_OUT = 300
INPUTS = (6, 9, 13, 20)
"""Few, so that a small model can tell a meaning by what it gives."""
TRIED = 2
"""Inputs of a task; each is tried on every step in turn, so that the first failed test tells the first wrong line."""
_TRIES = 2000


@cache
def held_out_combinations() -> frozenset[frozenset[str]]:
    """The names of the three verbs of each held-out combination."""
    every = [frozenset(verb.name for verb in three) for three in combinations(VERBS, 3)]
    return frozenset(sorted(every, key=_digest)[:HELD_OUT])


def _digest(names: frozenset[str]) -> bytes:
    return hashlib.sha256(" ".join(sorted(names)).encode()).digest()


def draw_training_verbs(draw: random.Random, length: int) -> list[Verb]:
    """`length` (2 or 3) different verbs that are no held-out combination."""
    while True:
        verbs = draw.sample(VERBS, length)
        if frozenset(verb.name for verb in verbs) not in held_out_combinations():
            return verbs


def draw_constants(draw: random.Random, verbs: Sequence[Verb]) -> list[Step]:
    """The verbs as steps, each with a constant of its own."""
    return [Step(verb, draw.choice(CONSTANTS)) for verb in verbs]


def solution(steps: Sequence[Step], dialect: Dialect) -> list[Line]:
    """The program that a house with this dialect wants."""
    return [Line(dialect.meaning(step.verb), step.constant) for step in steps]


def draw_tests(draw: random.Random, steps: Sequence[Step], dialect: Dialect) -> list[Test]:
    """Different inputs, with the outputs of the right program."""
    right = solution(steps, dialect)
    inputs = draw.sample(INPUTS, TRIED)
    return [(x, step, value) for x in inputs for step, value in enumerate(values(right, x), 1)]


def draw_checked(draw: random.Random, verbs: Sequence[Verb], dialect: Dialect) -> tuple[list[Step], list[Test]]:
    """The verbs in some order, with constants and tests such that every program that takes one verb in another
    meaning fails a test."""
    for _ in range(_TRIES):
        steps = draw_constants(draw, draw.sample(verbs, len(verbs)))
        tests = draw_tests(draw, steps, dialect)
        if notices_every_other_meaning(steps, tests, dialect):
            return steps, tests
    raise ValueError(f"no constants tell apart the meanings of {[verb.name for verb in verbs]}")


def notices_every_other_meaning(steps: Sequence[Step], tests: Sequence[Test], dialect: Dialect) -> bool:
    """Whether each program that takes one verb in another meaning gives a wrong output on some test."""
    right = solution(steps, dialect)
    return all(
        not judge([*right[:i], Line(other, step.constant), *right[i + 1 :]], tests).success
        for i, step in enumerate(steps)
        for other in step.verb.meanings
        if other != dialect.meaning(step.verb)
    )
