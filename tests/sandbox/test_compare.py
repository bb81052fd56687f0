from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.compare import same_text, same_value

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
        ("1 2", "1\n2"),
        ("", "0"),
        ("3 3", "3"),
        ("sNaN", "1"),
    ],
)
def test_a_prefix_an_extra_line_or_a_near_number_is_not_the_same_text(output: str, expected: str) -> None:
    assert not same_text(output, expected)


@given(st.text(max_size=50))
def test_every_text_is_the_same_as_itself(text: str) -> None:
    assert same_text(text, text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_text_comparison_is_symmetric(one: str, other: str) -> None:
    assert same_text(one, other) == same_text(other, one)


@given(json_values)
def test_every_value_is_the_same_as_itself_however_it_is_spaced(value: object) -> None:
    assert same_value(json.dumps(value), json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("[1, 2]", "[2, 1]"),
        ('"1"', "1"),
        ("0.30000000000000004", "0.3"),
        ("[" * 9999, "1"),
        ("not json", "1"),
        ("", "1"),
    ],
)
def test_other_or_unreadable_values_are_not_the_same(output: str, expected: str) -> None:
    assert not same_value(output, expected)
