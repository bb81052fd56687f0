"""Whether an output is the expected one. Outside the sandbox, on text alone, by one of two comparators.

`lcb_exact` has LiveCodeBench's rules (`lcb_runner/evaluation/testing_util.py`): what passes there passes here, what is
wrong or an error there does not pass. There is one exception: a value that is not of exact built-in types never gets
here (see `inside/candidate.py`). `tolerant` passes all that `lcb_exact` passes, and floats that are nearly right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from sandbox.verdicts import ComparatorName

TOLERANCE = Decimal("1e-6")
"""Absolute or relative to the expected number, whichever allows more."""
_NO_TRAPS = Context(prec=40, traps=[])


@dataclass(frozen=True)
class Comparator:
    """Each takes the output and the expected output. `line` and `text` are for standard output, `value` for JSON."""

    line: Callable[[str, str], bool]
    value: Callable[[str, str], bool]

    def text(self, output: str, expected: str) -> bool:
        """The same number of lines, each the same by `line`. White space around the whole or a line does not count."""
        found, wanted = lines_of(output), lines_of(expected)
        return len(found) == len(wanted) and all(self.line(a, b) for a, b in zip(found, wanted, strict=True))


def same_text(output: str, expected: str) -> bool:
    """Standard output by `lcb_exact`: the same number of lines, each the same text or, token by token, the same
    decimal numbers.

    White space around the whole and around each line does not count. There is no tolerance: 5.0 is 5, 0.333 is not
    0.3333.
    """
    return COMPARATORS["lcb_exact"].text(output, expected)


def same_value(output: str, expected: str) -> bool:
    """JSON values by `lcb_exact`: equal as Python compares them (5 == 5.0, 1 == true), arrays in order, objects
    without order. NaN is equal to nothing."""
    try:
        return bool(_load(output) == _load(expected))
    except (ValueError, RecursionError):
        return False


def lines_of(text: str) -> list[str]:
    """The lines that are compared: at least one, without white space around them."""
    return [line.strip() for line in text.strip().split("\n")]


def same_line(found: str, wanted: str) -> bool:
    """Whether two stripped lines are the same by `lcb_exact`."""
    if found == wanted:
        return True
    try:
        return [Decimal(token) for token in found.split()] == [Decimal(token) for token in wanted.split()]
    except InvalidOperation:  # a token is no number, or a signalling NaN, which cannot even be compared
        return False


def near_line(found: str, wanted: str) -> bool:
    """Whether two stripped lines are the same by `tolerant`: white space between tokens does not count, and a number
    written with a point or an exponent may be off by `TOLERANCE`."""
    if same_line(found, wanted):
        return True
    tokens, right = found.split(), wanted.split()
    return len(tokens) == len(right) and all(_near_token(a, b) for a, b in zip(tokens, right, strict=True))


def near_value(output: str, expected: str) -> bool:
    """JSON values by `tolerant`: as `same_value`, but where a number is expected that is written with a point or an
    exponent, another may be off by `TOLERANCE`."""
    try:
        found, wanted = _load(output), _load(expected)
        return bool(found == wanted) or _near(found, wanted)
    except (ValueError, RecursionError):
        return False


def _load(text: str) -> Any:
    # json's own NaN is one object, and a list that holds it is equal to itself.
    return json.loads(text, parse_constant=float)


def _near_token(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        a, b = Decimal(found), Decimal(wanted)
        if a == b:
            return True
    except InvalidOperation:
        return False
    return any(mark in wanted for mark in ".eE") and _near_number(a, b)


def _near_number(found: Decimal, wanted: Decimal) -> bool:
    if not (found.is_finite() and wanted.is_finite()):
        return False
    allowed = _NO_TRAPS.multiply(TOLERANCE, max(Decimal(1), wanted.copy_abs()))
    return _NO_TRAPS.subtract(found, wanted).copy_abs() <= allowed


def _near(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return found == wanted or _near_number(Decimal(found), Decimal(wanted))
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(_near(a, b) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found.keys() == wanted.keys() and all(_near(found[key], wanted[key]) for key in wanted)
    return bool(found == wanted)


COMPARATORS: dict[ComparatorName, Comparator] = {
    "lcb_exact": Comparator(same_line, same_value),
    "tolerant": Comparator(near_line, near_value),
}
