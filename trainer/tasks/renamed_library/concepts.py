"""The world's vocabulary: 24 integer functions, the names they may have, and the phrases that ask for them.

Every function takes an integer and a constant from `CONSTANTS`, is total, and grows by a small factor at most, so
that three of them in a row give numbers a person can check. What a library calls them is `library.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

CONSTANTS = (2, 3, 4, 5)
NAME_PRIOR = (0.90, 0.04, 0.03, 0.02, 0.01)
"""How likely a model that knows only the world at large writes the usual name, and each of the four synonyms."""


@dataclass(frozen=True)
class Concept:
    """A function: what a prompt says (`phrase`, then the constant) and what it does (`expression` in x and k).

    `names` holds the usual name, then four rare synonyms, in the order of `NAME_PRIOR`.
    """

    phrase: str
    names: tuple[str, str, str, str, str]
    expression: str
    apply: Callable[[int, int], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        apply = eval(f"lambda x, k: {self.expression}", {"gcd": _gcd})
        object.__setattr__(self, "apply", apply)

    @property
    def usual(self) -> str:
        """The name everybody would try first."""
        return self.names[0]


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)


CONCEPTS = (
    Concept("add", ("add", "plus", "increase", "augment", "gain"), "x + k"),
    Concept("subtract", ("subtract", "minus", "decrease", "deduct", "withdraw"), "x - k"),
    Concept("multiply by", ("multiply", "times", "scale", "product", "magnify"), "x * k"),
    Concept("divide by", ("divide", "quotient", "partition", "split", "share"), "x // k"),
    Concept("append the digit", ("append", "suffix", "attach", "concat", "tack"), "x * 10 + k"),
    Concept("subtract from", ("complement", "counter", "oppose", "remain", "owe"), "k - x"),
    Concept("shift left by", ("shift", "lshift", "slide", "move", "push"), "x << k"),
    Concept("flip the bits of", ("xor", "flip", "toggle", "differ", "parity"), "x ^ k"),
    Concept("set the bits of", ("union", "bitor", "include", "insert", "merge"), "x | k"),
    Concept("clear the bits of", ("clear", "unset", "exclude", "erase", "strip"), "x & ~k"),
    Concept("multiply by minus", ("negate", "revert", "recoil", "retreat", "undo"), "-x * k"),
    Concept("round up to a multiple of", ("ceil", "roundup", "upward", "top", "cover"), "-(-x // k) * k"),
    Concept("round down to a multiple of", ("floor", "rounddown", "downward", "base", "settle"), "x // k * k"),
    Concept("reflect about", ("reflect", "mirror", "bounce", "inverse", "echo"), "2 * k - x"),
    Concept("average with", ("average", "mean", "middle", "midpoint", "blend"), "(x + k) // 2"),
    Concept("subtract one, then multiply by", ("stretch", "expand", "inflate", "amplify", "grow"), "(x - 1) * k"),
    Concept("take the common multiple with", ("lcm", "common", "sync", "align", "meet"), "x * k // gcd(x, k)"),
    Concept("double, then add", ("double", "twice", "twofold", "duplicate", "pair"), "2 * x + k"),
    Concept("triple, then add", ("triple", "thrice", "threefold", "treble", "trio"), "3 * x + k"),
    Concept("halve, then add", ("halve", "half", "bisect", "cut", "fold"), "x // 2 + k"),
    Concept("add the square of", ("boost", "lift", "elevate", "climb", "jump"), "x + k * k"),
    Concept("subtract the square of", ("lower", "drop", "sink", "descend", "dip"), "x - k * k"),
    Concept("negate unless divisible by", ("alternate", "swing", "signed", "sway", "zigzag"), "-x if x % k else x"),
    Concept("add twice the remainder modulo", ("spread", "widen", "residue", "drift", "stagger"), "x + x % k * 2"),
)
