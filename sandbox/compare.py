"""Whether an output is the expected one. Outside the sandbox, on text alone, as LiveCodeBench compares."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation


def same_text(output: str, expected: str) -> bool:
    """Standard output: the same number of lines, each the same text or, token by token, the same decimal numbers.

    White space around the whole and around each line does not count. There is no tolerance: 5.0 is 5, 0.333 is not
    0.3333.
    """
    found, wanted = _lines(output), _lines(expected)
    return len(found) == len(wanted) and all(_same_line(a, b) for a, b in zip(found, wanted, strict=True))


def same_value(output: str, expected: str) -> bool:
    """JSON values: equal as Python compares them (5 == 5.0, 1 == true), arrays in order, objects without order."""
    if output == expected:
        return True
    try:
        return bool(json.loads(output) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    numbers = _numbers(wanted)
    return numbers is not None and numbers == _numbers(found)


def _numbers(line: str) -> list[Decimal] | None:
    try:
        numbers = [Decimal(token) for token in line.split()]
    except InvalidOperation:
        return None
    return numbers if all(number.is_finite() for number in numbers) else None
