"""Outcome of `choice` and `math` answers by rule: find the answer, compare it with the reference.

Pure functions on text. Equality of mathematics is decided here for numbers and for the same text up to notation; the
rest is left to `equality.py`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from fractions import Fraction

MAX_EXPRESSION_CHARS = 200
MAX_NESTING = 10
MAX_EXPONENT = 64
RELATIVE_TOLERANCE = 1e-9

Number = Fraction | float

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_STATED = re.compile(r"\banswer\**(?:\s+is\b\s*:?|\s*[:=])[\s*]*([^\n]+)", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.:),](?:\s.*)?)?", re.DOTALL)
_STYLE = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\left|\\right|\\displaystyle|\\%|%|\^\{?\\circ\}?|\$|\\[()\[\]]|~")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_ROOT = re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|(\d))")
_POWER = re.compile(r"\^\s*(?:\{([^{}]*)\}|(-?\w))")
_MIXED = re.compile(r"\d\s*\\[dt]?frac")
_BINDING = re.compile(r"^[A-Za-z]\s*=(?!=)")
_TIMES = re.compile(r"(?<=[\d)])(?=[A-Za-z(])")


def find_answer(text: str) -> str | None:
    """The final answer in a response: the last `<answer>...</answer>`, else the last `\\boxed{...}`, else what
    follows the last "Answer:"; thinking before `</think>` is not searched. None if there is none."""
    said = text.rpartition("</think>")[2]
    for find in (_last_tagged, _last_boxed, _last_stated):
        found = find(said)
        if found:
            return found
    return None


def find_letter(text: str) -> str | None:
    """The option chosen in a response, as a capital letter, or None."""
    answer = find_answer(text)
    return as_letter(answer) if answer is not None else None


def as_letter(answer: str) -> str | None:
    """`B` for "B", "(b)", "B.", "**B**", "\\text{B}" and "B) because ..."; None for anything else."""
    plain = _STYLE.sub(r"\1", answer).replace("$", "").strip().strip("*").strip()
    match = _LETTER.fullmatch(plain)
    return match.group(1).upper() if match else None


def same_value(given: str, expected: str) -> bool | None:
    """Whether two answers are the same: True for the same text up to notation and for the same numbers, False for
    two different numbers, points or intervals of numbers; None where it takes algebra."""
    if max(len(given), len(expected)) > 10 * MAX_EXPRESSION_CHARS:
        return given.strip() == expected.strip()
    left, right = _normalise(given), _normalise(expected)
    if left == right:
        return True
    if _MIXED.search(given) or _MIXED.search(expected):
        return None
    ours, theirs = _split(left), _split(right)
    if any(_value(part) is None for part in (*ours, *theirs)):
        return None
    alike = len(ours) == len(theirs) and all(_same_number(a, b) for a, b in zip(ours, theirs, strict=True))
    if len(ours) == len(theirs) == 1 or (_brackets(left) and _brackets(right) and "{" not in left + right):
        return alike and (len(ours) == 1 or _brackets(left) == _brackets(right))
    return True if alike and _brackets(left) == _brackets(right) else None


def _last_tagged(text: str) -> str | None:
    # Tags are matched one by one: a pattern over both is quadratic in openings that nothing closes.
    opened: int | None = None
    found: str | None = None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            opened = tag.end()
        elif opened is not None:
            found, opened = text[opened : tag.start()], None
    return _tidy(found) if found is not None else None


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return _tidy(text[start + len("\\boxed{") : position])
    return None


def _last_stated(text: str) -> str | None:
    found = _STATED.findall(text)
    return _tidy(found[-1]) if found else None


def _tidy(answer: str) -> str:
    return answer.strip().strip("*`").strip().removesuffix(".").strip()


def _normalise(answer: str) -> str:
    text = _THOUSANDS.sub(lambda m: m.group().replace(",", ""), _SPACING.sub("", _STYLE.sub(r"\1", answer)))
    text = _rewrite(text)
    for name, meaning in (("\\cdot", "*"), ("\\times", "*"), ("\\pi", "pi"), ("\\{", "{"), ("\\}", "}")):
        text = text.replace(name, meaning)
    return re.sub(r"\s+", "", _BINDING.sub("", text.strip())).casefold()


def _rewrite(text: str) -> str:
    """LaTeX fractions, roots and powers as arithmetic, inside out: outer braces are seen once inner ones are gone."""
    for _ in range(MAX_NESTING):
        before = text
        text = _FRACTION.sub(lambda m: f"(({m[1] or m[2]})/({m[3] or m[4]}))", text)
        text = _POWER.sub(r"**(\1\2)", _ROOT.sub(r"sqrt(\1\2)", text))
        if text == before:
            break
    return text


def _brackets(text: str) -> str:
    return text[:1] + text[-1:] if text[:1] in "([{" and text[-1:] in ")]}" else ""


def _split(text: str) -> list[str]:
    inner = text[1:-1] if _brackets(text) and "," in text else text
    parts, depth, start = [], 0, 0
    for position, char in enumerate(inner):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(inner[start:position])
            start = position + 1
    return [*parts, inner[start:]]


def _same_number(left: str, right: str) -> bool:
    a, b = _value(left), _value(right)
    if a is None or b is None:
        return False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE)


def _value(text: str) -> Number | None:
    """The number an arithmetic expression stands for, exact where it can be; None if it is no such expression."""
    if not text or len(text) > MAX_EXPRESSION_CHARS:
        return None
    try:
        return _evaluate(ast.parse(_TIMES.sub("*", text), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(repr(node.value))
    if isinstance(node, ast.Name) and node.id == "pi":
        return math.pi
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "sqrt"
        and len(node.args) == 1
    ):
        return math.sqrt(_evaluate(node.args[0]))
    raise ValueError("not an arithmetic expression")


def _power(base: Number, exponent: Number) -> Number:
    if abs(float(exponent)) > MAX_EXPONENT or abs(float(base)) > 10.0**MAX_EXPONENT:
        raise ValueError("too large a power")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        return base ** int(exponent)
    return math.pow(base, exponent)


_OPERATIONS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: _power,
}
