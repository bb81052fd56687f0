"""Questions and programs of the world, as text and back. What a program's tests say is `outcomes.py`'s business."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.tasks.renamed_library.concepts import CONCEPTS, Concept

OPENING = "```python\nimport lib\n\ndef solve(x):\n"
CALL = "    x = lib."
CLOSING = "    return x\n```"
QUESTION = "Write solve(x) with the module lib. Apply these steps to x, in this order:\n"
FIRST_CALL_LINE = 4

_STEP = re.compile(r"\d\. (.+) (\d)")
_CALL = re.compile(r"    x = lib\.([A-Za-z_]\w*)\(x, (\d)\)")


@dataclass(frozen=True)
class Step:
    """One line of a question: apply `concept` with `constant`."""

    concept: Concept
    constant: int


@dataclass(frozen=True)
class Call:
    """One line of a program. `name` may be anything that was written there, even nothing."""

    name: str
    constant: int

    @property
    def line(self) -> str:
        """The source line, without its newline."""
        return f"{CALL}{self.name}(x, {self.constant})"


def question(steps: Sequence[Step]) -> str:
    """The user message."""
    return QUESTION + "".join(f"\n{i}. {s.concept.phrase} {s.constant}" for i, s in enumerate(steps, 1))


def asked(question: str) -> list[Step]:
    """The steps of a user message that `question` wrote."""
    by_phrase = {concept.phrase: concept for concept in CONCEPTS}
    found = (_STEP.fullmatch(line) for line in question.removeprefix(QUESTION).splitlines() if line)
    return [Step(by_phrase[match[1]], int(match[2])) for match in found if match is not None]


def program(calls: Sequence[Call]) -> str:
    """A response: a fenced program."""
    return OPENING + "".join(call.line + "\n" for call in calls) + CLOSING


def parse(response: str) -> list[Call] | None:
    """The calls of a response of the world's shape, or None for any other text."""
    if not (response.startswith(OPENING) and response.endswith(CLOSING)):
        return None
    calls = []
    for line in response[len(OPENING) : -len(CLOSING)].splitlines():
        match = _CALL.fullmatch(line)
        if match is None:
            return None
        calls.append(Call(match[1], int(match[2])))
    return calls


def expected(steps: Sequence[Step], x: int) -> int:
    """What a right program returns."""
    for step in steps:
        x = step.concept.apply(x, step.constant)
    return x
