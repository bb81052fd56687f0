"""The comparators. `lcb_exact` is held against LiveCodeBench's rules, stated once more from their description alone and
in another form: with regular expressions and digits where the code has `str` methods and `Decimal`."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.compare import COMPARATORS, same_text, same_value

PAIRS = 100_000
tolerant = COMPARATORS["tolerant"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3\n", "3"),
        (" 3 \n\n", "3"),
        ("5.0", "5"),
        ("1e3 2", "1000  2"),
        ("a\n b ", "a\nb"),
        ("", "\n"),
        ("nan", "nan"),
        ("inf", "+Infinity"),
        ("-INF 1", "-inf 1.0"),
        ("1_000", "1000"),
        ("\uff11\u0662", "12"),
        ("-0", "0"),
        ("1\r\n2\r\n", "1\n2"),
        ("\x1c\u2028\xa07\x85\x1f", "7"),
        ("1\x0b2", "1 2"),
        (".5 5.", "0.5 5"),
        ("1e-400 1E400", "0.1e-399 10e399"),
    ],
)
def test_the_same_lines_or_numbers_are_the_same_text(output: str, expected: str) -> None:
    assert same_text(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3\n4", "3"),
        ("3", "3\n4"),
        ("0.333333", "0.33333333"),
        ("Yes", "YES"),
        ("a  b", "a b"),
        ("x 5.0", "x 5"),
        ("1 2", "1\n2"),
        ("1\r2", "1\n2"),
        ("", "0"),
        ("3 3", "3"),
        ("sNaN", "1"),
        ("nan 1", "NaN 1.0"),
        ("sNaN 1", "sNaN 1.0"),
        ("inf", "-inf"),
        ("\ufeff3", "3"),
        ("1,000", "1000"),
        ("0x10", "16"),
        ("9007199254740993", "9007199254740992"),
        ("1\x00", "1"),
    ],
)
def test_a_prefix_an_extra_line_or_a_near_number_is_not_the_same_text(output: str, expected: str) -> None:
    assert not same_text(output, expected)


@given(st.text(max_size=50))
def test_every_text_is_the_same_as_itself(text: str) -> None:
    assert same_text(text, text)
    assert tolerant.text(text, text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_text_comparison_is_symmetric(one: str, other: str) -> None:
    assert same_text(one, other) == same_text(other, one)


@given(json_values)
def test_every_value_is_the_same_as_itself_however_it_is_spaced(value: object) -> None:
    assert same_value(json.dumps(value), json.dumps(value, separators=(",", ":")))
    assert tolerant.value(json.dumps(value), json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize(
    ("output", "expected"),
    [("1", "true"), ("5.0", "5"), ("Infinity", "1e999"), ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'), ("-0.0", "0")],
)
def test_values_are_equal_as_python_compares_them(output: str, expected: str) -> None:
    assert same_value(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("[1, 2]", "[2, 1]"),
        ('"1"', "1"),
        ("0.30000000000000004", "0.3"),
        ("[" * 9999, "1"),
        ("[" * 500_000 + "]" * 500_000, "1"),
        ("1" * 5000, "1"),
        ("not json", "1"),
        ("", "1"),
        ("NaN", "NaN"),
        ("[NaN]", "[NaN]"),
        ("(1, 2)", "[1, 2]"),
        ("[(1, 2)]", "[[1, 2]]"),
        ('{1: "a"}', '{"1": "a"}'),
    ],
)
def test_other_or_unreadable_values_are_not_the_same(output: str, expected: str) -> None:
    assert not same_value(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("0.3333333", "0.33333333"),
        ("x  0.3333333 y", "x 0.33333333 y"),
        ("1000001", "1000000.5"),
        ("a\tb", "a b"),
        ("0", "1e-7"),
        ("1e400", "1.0000001e400"),
    ],
)
def test_tolerant_passes_near_floats_and_other_spaces(output: str, expected: str) -> None:
    assert tolerant.text(output, expected)
    assert not same_text(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("3.0000001", "3"),
        ("10000001", "10000000"),
        ("0.33333", "0.33333333"),
        ("1 2", "1\n2"),
        ("1.0 2", "1.0"),
        ("nan", "0.5"),
        ("inf", "1e999"),
        ("sNaN", "0.5"),
        ("e", "f"),
        ("Yes", "yes"),
    ],
)
def test_tolerant_passes_nothing_else(output: str, expected: str) -> None:
    assert not tolerant.text(output, expected)


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("[0.1000000001, 2]", "[0.1, 2.0]", True),
        ('{"a": [3]}', '{"a": [3.0000001]}', True),
        ("3.0000001", "3", False),
        ("true", "1.0000001", False),
        ("[0.1]", "[0.1, 0.1]", False),
        ('{"a": 0.1}', '{"b": 0.1}', False),
        ("NaN", "0.1", False),
        ("1e999", "1e308", False),
        ('"0.1"', "0.1", False),
        ("[[" * 999, "0.1", False),
    ],
)
def test_tolerant_values_differ_in_floats_alone(output: str, expected: str, same: bool) -> None:
    assert tolerant.value(output, expected) is same


@given(st.text(alphabet="0123456789.eE+-_ \n\tanifNsx", max_size=12), st.text(alphabet="0123456789.e- \n", max_size=12))
def test_tolerant_passes_all_that_lcb_exact_passes(one: str, other: str) -> None:
    assert tolerant.text(one, other) or not same_text(one, other)


# LiveCodeBench's rules once more.

WHITE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
OUTSIDE = re.compile(rf"\A[{WHITE}]+|[{WHITE}]+\Z")
TOKEN = re.compile(rf"[^{WHITE}]+")
NUMBER = re.compile(r"([+-]?)(?:(\d+)\.?(\d*)|\.(\d+))(?:e([+-]?\d+))?", re.IGNORECASE)
INFINITE = re.compile(r"([+-]?)inf(?:inity)?", re.IGNORECASE)
Exact = tuple[bool, str, int]
"""A finite number: whether it is negative, its digits without zeros at the ends, the power of ten of the last one."""
NO_NUMBER = re.compile(r"[+-]?s?nan\d*", re.IGNORECASE)


def lcb_text(output: str, expected: str) -> bool:
    """Strip the whole, cut at line feeds, strip each: as many lines, and each the same text or the same numbers."""
    ours, theirs = (OUTSIDE.sub("", text).split("\n") for text in (output, expected))
    return len(ours) == len(theirs) and not any(differ(a, b) for a, b in zip(ours, theirs, strict=True))


def differ(one: str, other: str) -> bool:
    one, other = OUTSIDE.sub("", one), OUTSIDE.sub("", other)
    if one == other:
        return False
    numbers = [[exact(token) for token in TOKEN.findall(line)] for line in (one, other)]
    return None in numbers[0] or None in numbers[1] or numbers[0] != numbers[1]


def exact(token: str) -> Exact | float | None:
    """The number that a token is, exactly; None if it is none. What is not a number is equal to nothing."""
    token = "".join(str(unicodedata.decimal(c)) if unicodedata.decimal(c, None) is not None else c for c in token)
    token = token.replace("_", "")
    if found := INFINITE.fullmatch(token):
        return -math.inf if found[1] == "-" else math.inf
    if NO_NUMBER.fullmatch(token):
        return float("nan")  # a new one: a list that holds the same object is equal to itself
    if not (found := NUMBER.fullmatch(token)):
        return None
    sign, whole, after, bare, exponent = found.groups()
    digits, places = (whole or "") + (after or "") + (bare or ""), len(after or "") + len(bare or "")
    short = digits.rstrip("0")
    power = int(exponent or 0) - places + len(digits) - len(short)
    return (sign == "-", short.lstrip("0"), power) if short else (False, "", 0)


def lcb_value(output: str, expected: str) -> bool:
    """What was returned is what is expected, as Python compares the two. An error is no pass."""
    try:
        return same_python(json.loads(output), json.loads(expected))
    except (ValueError, RecursionError):
        return False


def same_python(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_python, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return sorted(one) == sorted(other) and all(same_python(one[key], other[key]) for key in one)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and one == other and not isinstance(one, list | dict)


TOKENS = (
    *("0", "-0", "+0", "1", "1.0", "1.", "01", "1e0", "1E+0", "10", "1e1", "1_0", "_1", "1_", "\uff11", "\u0661.0"),
    *("0.1", ".1", "1e-1", "0.10", "0.1000000001", "0.30000000000000004", "3e-1", "9007199254740993", "1e400"),
    *("inf", "-inf", "Infinity", "+INF", "infinit", "nan", "NaN", "sNaN", "nan1", "-snan", "0x1", "1,0", "--1", "1e"),
    *("a", "A", "Yes", "yes", "No", "", "\ufeff1", "1\x00", "\u4e00", "\u00b2", "\u2460", "e", ".", "+", "1.0.0", "_"),
)
SPACES = (" ", "  ", "\t", "\xa0", "\x0b", "\x1c", "\u2028", "\r", "\u3000", "\u200b", "\x85")
BREAKS = ("\n", "\n", "\n", "\r\n", " \n", "\n\n", "\r", "\n \n")


def test_lcb_exact_agrees_with_the_rules_stated_anew_on_generated_texts() -> None:
    draw, passed = random.Random("texts"), 0
    for _ in range(PAIRS):
        one = any_text(draw)
        other = near_text(draw, one) if draw.random() < 0.9 else any_text(draw)
        same = same_text(one, other)
        assert same == lcb_text(one, other), (one, other)
        passed += same
    assert 0.2 < passed / PAIRS < 0.8


def test_lcb_exact_agrees_with_the_rules_stated_anew_on_generated_values() -> None:
    draw, passed = random.Random("values"), 0
    for _ in range(PAIRS):
        value = any_value(draw, 3)
        one = json.dumps(value)
        other = json.dumps(near_value(draw, value)) if draw.random() < 0.9 else json.dumps(any_value(draw, 3))
        if draw.random() < 0.02:
            one = one[: draw.randrange(len(one) + 1)]
        same = same_value(one, other)
        assert same == lcb_value(one, other), (one, other)
        passed += same
    assert 0.2 < passed / PAIRS < 0.8


def any_text(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(0, 4)):
        line = [draw.choice(TOKENS) + draw.choice(SPACES) for _ in range(draw.randint(0, 3))]
        parts += [*line, draw.choice(BREAKS)]
    return "".join(parts)


def near_text(draw: random.Random, text: str) -> str:
    """`text` with as little changed as makes judges differ."""
    for _ in range(draw.randint(0, 2)):
        change: Callable[[random.Random, str], str] = draw.choice(CHANGES)
        text = change(draw, text)
    return text


def swap_token(draw: random.Random, text: str) -> str:
    tokens = TOKEN.findall(text)
    return text.replace(draw.choice(tokens), draw.choice(TOKENS), 1) if tokens else text


def rewrite_number(draw: random.Random, text: str) -> str:
    """Write a number in another way."""
    tokens = [token for token in TOKEN.findall(text) if isinstance(exact(token), tuple)]
    if not tokens:
        return text
    token = draw.choice(tokens)
    more = ["0" + token, token + "e0", token + "E-0", token if "." in token or "e" in token.lower() else token + ".0"]
    return text.replace(token, draw.choice(more), 1)


CHANGES: tuple[Callable[[random.Random, str], str], ...] = (
    lambda draw, text: text,
    lambda draw, text: text + draw.choice([*SPACES, *BREAKS]),
    lambda draw, text: draw.choice([*SPACES, *BREAKS]) + text,
    lambda draw, text: text.replace(draw.choice(SPACES), draw.choice(SPACES), draw.randint(1, 2)),
    lambda draw, text: text.replace("\n", draw.choice(BREAKS), 1),
    lambda draw, text: text.swapcase(),
    lambda draw, text: text[:-1],
    lambda draw, text: text + draw.choice(TOKENS),
    swap_token,
    rewrite_number,
)

ATOMS = (None, True, False, 0, 1, -1, 1.0, 0.0, -0.0, 0.1, 0.3, 0.1 + 0.2, 2**53, float(2**53), 2**53 + 1, 1e308)
OTHER_ATOMS = (math.inf, -math.inf, math.nan, "", "1", "a", "A", "\u00e9", "e\u0301", "\ud800")


def any_value(draw: random.Random, depth: int) -> Any:
    kind = draw.random()
    if depth and kind < 0.35:
        return [any_value(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    if depth and kind < 0.5:
        return {draw.choice(["", "a", "b", "1"]): any_value(draw, depth - 1) for _ in range(draw.randint(0, 3))}
    return draw.choice(ATOMS if kind < 0.9 else OTHER_ATOMS)


def near_value(draw: random.Random, value: Any) -> Any:
    if draw.random() < 0.03:
        return any_value(draw, 1)
    if isinstance(value, list):
        changed = [near_value(draw, item) for item in value]
        return changed[: len(changed) - (draw.random() < 0.05)]
    if isinstance(value, dict):
        return {key: near_value(draw, item) for key, item in reversed(value.items())}
    if isinstance(value, bool) and draw.random() < 0.5:
        return int(value)
    if isinstance(value, int | float) and abs(value) < 2**60 and draw.random() < 0.5:
        return float(value)
    return value
