"""Questions and programs of the world, as text and back. What a program's tests say is `outcomes.py`'s business."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.tasks.house_dialect.verbs import FUNCTIONS, VERBS, Function, Verb

QUESTION = "Write solve(x, n): what step n of these makes of x.\n"
BY = " by "
OPENING = "```python\ndef solve(x, n):\n    return [\n"
INDENT = "        "
TAIL = ",\n"
CLOSING = "    ][n - 1]\n```"

_STEP = re.compile(r"\d\. (\w+) by (\d)")
_LINE = re.compile(INDENT + "(" + "|".join(re.escape(f.expression) for f in FUNCTIONS) + r")([0-9])")


@dataclass(frozen=True)
class Step:
    """One line of a question: what is to be done to x, in words."""

    verb: Verb
    constant: int

    @property
    def words(self) -> str:
        """As it stands in the question."""
        return f"{self.verb.name}{BY}{self.constant}"


@dataclass(frozen=True)
class Line:
    """One line of a program."""

    function: Function
    constant: int

    @property
    def expression(self) -> str:
        """What it makes of x."""
        return f"{self.function.expression}{self.constant}"


def question(steps: Sequence[Step]) -> str:
    """The user message."""
    return QUESTION + "".join(f"\n{i}. {step.words}" for i, step in enumerate(steps, 1))


def asked(question: str) -> list[Step]:
    """The steps of a user message that `question` wrote."""
    by_name = {verb.name: verb for verb in VERBS}
    found = (_STEP.fullmatch(line) for line in question.removeprefix(QUESTION).split("\n"))
    return [Step(by_name[match[1]], int(match[2])) for match in found if match is not None]


def program(lines: Sequence[Line]) -> str:
    """A response: a fenced program."""
    return OPENING + "".join(INDENT + line.expression + TAIL for line in lines) + CLOSING


def parse(response: str) -> list[Line] | None:
    """The lines of a response that `program` may have written, or None for any other text."""
    by_expression = {function.expression: function for function in FUNCTIONS}
    inner = response.removeprefix(OPENING).removesuffix(CLOSING)
    found = (_LINE.fullmatch(line) for line in inner.split(TAIL)[:-1])
    lines = [Line(by_expression[match[1]], int(match[2])) for match in found if match is not None]
    return lines if program(lines) == response else None


def values(lines: Sequence[Line], x: int) -> list[int]:
    """What the program returns for x and each step from the first on."""
    return [line.function.apply(x, line.constant) for line in lines]
