"""Which questions exist, which of them are held out, and the tests of each.

Combinations are sets of three concepts. The 300 whose digests are smallest are held out: no order of theirs, with
whatever constants, is ever a training prompt, in pre-training or after it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations

from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS, Concept
from trainer.tasks.renamed_library.outcomes import Test
from trainer.tasks.renamed_library.programs import Step, expected

HELD_OUT = 300
TESTS = 8
_INPUTS = range(-40, 100)
_TRIES = 5000


@cache
def held_out_combinations() -> frozenset[frozenset[str]]:
    """The usual names of the three concepts of each held-out combination."""
    every = [frozenset(c.usual for c in three) for three in combinations(CONCEPTS, 3)]
    return frozenset(sorted(every, key=_digest)[:HELD_OUT])


def _digest(names: frozenset[str]) -> bytes:
    return hashlib.sha256(" ".join(sorted(names)).encode()).digest()


def draw_training_concepts(draw: random.Random, length: int) -> list[Concept]:
    """`length` (1 to 3) different concepts that are no held-out combination."""
    while True:
        concepts = draw.sample(CONCEPTS, length)
        if frozenset(c.usual for c in concepts) not in held_out_combinations():
            return concepts


def draw_constants(draw: random.Random, concepts: Sequence[Concept]) -> list[Step]:
    """The concepts as steps, each with a constant of its own."""
    return [Step(concept, draw.choice(CONSTANTS)) for concept in concepts]


def draw_checked(draw: random.Random, concepts: Sequence[Concept]) -> tuple[list[Step], list[Test]]:
    """Constants and tests for the concepts such that every program with one wrong function fails a test."""
    for _ in range(_TRIES):
        steps = draw_constants(draw, concepts)
        tests = draw_tests(draw, steps)
        if notices_every_wrong_function(steps, tests):
            return steps, tests
    raise ValueError(f"no constants tell apart the programs for {[c.usual for c in concepts]}")


def draw_tests(draw: random.Random, steps: Sequence[Step]) -> list[Test]:
    """Different inputs, with the outputs of a right program."""
    return [(x, expected(steps, x)) for x in draw.sample(_INPUTS, TESTS)]


def notices_every_wrong_function(steps: Sequence[Step], tests: Sequence[Test]) -> bool:
    """Whether each program that uses one other function at one step gives a wrong output on some test."""
    return all(
        any(expected([*steps[:i], Step(other, step.constant), *steps[i + 1 :]], x) != out for x, out in tests)
        for i, step in enumerate(steps)
        for other in CONCEPTS
        if other != step.concept
    )
