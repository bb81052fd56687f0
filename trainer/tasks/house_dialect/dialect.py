"""The dialect a run meets: which of its three meanings every verb has in this house."""

from __future__ import annotations

import random
from dataclasses import dataclass

from trainer.tasks.house_dialect.verbs import VERBS, Function, Verb

USUAL, SECOND, THIRD = 14, 8, 2
"""How many of the 24 verbs have their usual, second and third meaning in a run's dialect: always as many, so that
every run starts from about the same accuracy."""
FAR = (7, 10, 7)
"""The same in a house far from the usual, where a right program is rare."""


@dataclass(frozen=True)
class Dialect:
    """`choice` holds an index 0-2 into the meanings of each verb, in their order."""

    choice: tuple[int, ...]

    def meaning(self, verb: Verb) -> Function:
        """What this house means by a verb."""
        return verb.meanings[self.choice[VERBS.index(verb)]]


def draw_dialect(seed: str, counts: tuple[int, int, int] = (USUAL, SECOND, THIRD)) -> Dialect:
    """The dialect of a seed; equal seeds give equal dialects. `counts`: verbs with each meaning."""
    choice = [meaning for meaning, count in enumerate(counts) for _ in range(count)]
    random.Random(f"dialect:{seed}").shuffle(choice)
    return Dialect(tuple(choice))


def draw_even_dialect(seed: str) -> Dialect:
    """A dialect in which every verb has each of its meanings with equal chances."""
    draw = random.Random(f"even dialect:{seed}")
    return Dialect(tuple(draw.randrange(3) for _ in VERBS))


def world_dialect(world_seed: int, *, far: bool = False) -> Dialect:
    """The dialect of the runs with this `tasks.world_seed`; `far` from the usual where asked."""
    return draw_dialect(f"far world:{world_seed}", FAR) if far else draw_dialect(f"world:{world_seed}")
