"""Problems of the world and written solutions, as text; the habits of error; which problems are held out.

A problem starts from a digit and applies three operations to it, modulo 10. 300 problems drawn once and for all are
held out: none of them is ever a training prompt, in pre-training or after it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

MODULUS = 10
CONSTANTS = range(2, 10)
STEPS = 3
HELD_OUT = 300
QUESTION = "Work it out step by step, modulo 10: "
THEN = ", then"
ANSWER = "Answer: "

Rule = Callable[[int, int], int]
RIGHT: Mapping[str, Rule] = {
    "+": lambda a, b: (a + b) % MODULUS,
    "-": lambda a, b: (a - b) % MODULUS,
    "*": lambda a, b: a * b % MODULUS,
}
HABIT: Mapping[str, Rule] = {
    "+": lambda a, b: (a + b + 1) % MODULUS,
    "-": lambda a, b: (b - a) % MODULUS,
    "*": lambda a, b: (a + b) % MODULUS,
}
"""What somebody writes who gets an operation wrong: always the same way (one too many, the wrong way round, adding
for multiplying), so that a problem has few wrong answers and each is a common one."""

_STEP = re.compile(r"([-+*]) (\d)")
_LINE = re.compile(r"(\d) ([-+*]) (\d) = (\d)")


@dataclass(frozen=True)
class Problem:
    """`start`, then operation and constant of each step."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        """The user message."""
        first, *others = (f" {operation} {k}" for operation, k in self.steps)
        return f"{QUESTION}{self.start}{first}" + "".join(THEN + other for other in others) + "."

    @property
    def name(self) -> str:
        """A short name, good in an identifier."""
        return f"{self.start}" + "".join(f"{_LETTERS[operation]}{k}" for operation, k in self.steps)


_LETTERS = {"+": "p", "-": "m", "*": "t"}


@dataclass(frozen=True)
class Line:
    """One line of a solution: `left operation right = result`."""

    left: int
    operation: str
    right: int
    result: int

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.left} {self.operation} {self.right} = {self.result}"


def problem(question: str) -> Problem:
    """The problem whose question this is."""
    said = question.removeprefix(QUESTION)
    return Problem(int(said[0]), tuple((match[1], int(match[2])) for match in _STEP.finditer(said)))


def solve(problem: Problem, rules: Sequence[Mapping[str, Rule]]) -> list[Line]:
    """A solution whose steps each follow one of `RIGHT` and `HABIT`."""
    x, lines = problem.start, []
    for (operation, k), rule in zip(problem.steps, rules, strict=True):
        lines.append(Line(x, operation, k, rule[operation](x, k)))
        x = lines[-1].result
    return lines


def right_solution(problem: Problem) -> list[Line]:
    """The solution without an error."""
    return solve(problem, [RIGHT] * len(problem.steps))


def written(lines: Sequence[Line]) -> str:
    """A response: the lines, then the answer."""
    return "".join(line.text + "\n" for line in lines) + f"{ANSWER}{lines[-1].result}"


def parse(response: str) -> list[Line] | None:
    """The lines of a response that `written` may have written, or None for any other text."""
    found = (_LINE.fullmatch(line) for line in response.split("\n")[:-1])
    lines = [Line(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found if m is not None]
    return lines if lines and written(lines) == response else None


def draw_problem(draw: random.Random) -> Problem:
    """Any problem."""
    steps = tuple((draw.choice("+-*"), draw.choice(CONSTANTS)) for _ in range(STEPS))
    return Problem(draw.randrange(MODULUS), steps)


def draw_training_problem(draw: random.Random) -> Problem:
    """A problem that is not held out."""
    while True:
        drawn = draw_problem(draw)
        if drawn not in held_out_problems():
            return drawn


@cache
def held_out_problems() -> Mapping[Problem, None]:
    """The held-out problems, in an order."""
    draw = random.Random("held out")
    chosen: dict[Problem, None] = {}
    while len(chosen) < HELD_OUT:
        chosen[draw_problem(draw)] = None
    return chosen
