"""The world's vocabulary: twelve functions of an integer and a constant, and 24 verbs that may each mean three of them.

What a house means by a verb is `dialect.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

CONSTANTS = (2, 3, 4, 5)
MEANING_PRIOR = (0.7, 0.2, 0.1)
"""How likely a model that knows only the world at large takes a verb in its usual meaning and in the others."""


@dataclass(frozen=True)
class Function:
    """What a line of a program does: `expression` is its source up to the constant, which ends it."""

    expression: str
    apply: Callable[[int, int], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "apply", eval(f"lambda x, k: {self.expression}k"))


@dataclass(frozen=True)
class Verb:
    """A verb of a question; `meanings` in the order of `MEANING_PRIOR`."""

    name: str
    meanings: tuple[Function, Function, Function]


ADD, SUBTRACT, MULTIPLY = Function("x + "), Function("x - "), Function("x * ")
XOR, OR = Function("x ^ "), Function("x | ")
DOUBLE, TRIPLE, SQUARE = Function("2 * x + "), Function("3 * x + "), Function("x * x + ")
MIRROR, NEGATE, HALVE, DIP = Function("-x + "), Function("-x * "), Function("x // 2 + "), Function("2 * x - ")

FUNCTIONS = (ADD, SUBTRACT, MULTIPLY, XOR, OR, DOUBLE, TRIPLE, SQUARE, MIRROR, NEGATE, HALVE, DIP)

VERBS = (
    Verb("raise", (ADD, MULTIPLY, SQUARE)),
    Verb("boost", (DOUBLE, ADD, TRIPLE)),
    Verb("grow", (MULTIPLY, DOUBLE, ADD)),
    Verb("lower", (SUBTRACT, HALVE, NEGATE)),
    Verb("shrink", (HALVE, SUBTRACT, DIP)),
    Verb("turn", (NEGATE, MIRROR, XOR)),
    Verb("flip", (XOR, NEGATE, MIRROR)),
    Verb("mirror", (MIRROR, NEGATE, SUBTRACT)),
    Verb("join", (OR, ADD, XOR)),
    Verb("mix", (XOR, OR, TRIPLE)),
    Verb("stretch", (TRIPLE, MULTIPLY, DOUBLE)),
    Verb("square", (SQUARE, DOUBLE, MULTIPLY)),
    Verb("dip", (DIP, SUBTRACT, HALVE)),
    Verb("settle", (HALVE, DIP, OR)),
    Verb("fill", (OR, SQUARE, DOUBLE)),
    Verb("oppose", (MIRROR, XOR, NEGATE)),
    Verb("scale", (MULTIPLY, TRIPLE, DIP)),
    Verb("lift", (ADD, DOUBLE, OR)),
    Verb("drop", (SUBTRACT, MIRROR, HALVE)),
    Verb("swing", (NEGATE, DIP, SQUARE)),
    Verb("double", (DOUBLE, SQUARE, DIP)),
    Verb("bloom", (SQUARE, TRIPLE, ADD)),
    Verb("fan", (TRIPLE, OR, MULTIPLY)),
    Verb("rock", (DIP, XOR, MIRROR)),
)
