"""What is shown of a response: the same however its tokens come, and cut where the whole text would be cut."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.openai_choice import Choice, Shown
from services.inference.text import Text

VOCABULARY = 436


@lru_cache
def text_of(path: str) -> Text:
    text = Text(path)
    text.load()
    return text


def shown(text: Text, pieces: list[list[int]], stops: list[str], finish_reason: str = "length") -> list[Shown]:
    """All that is shown of a response that comes in `pieces`; a token's log-prob is its number."""
    choice = Choice(text.stream(), stops)
    parts, count = [], 0
    for place, piece in enumerate(pieces):
        if choice.finished:
            break
        last = finish_reason if place == len(pieces) - 1 else None
        parts.append(choice.feed(piece, [float(count + i) for i in range(len(piece))], last))
        count += len(piece)
    return parts


def joined(parts: list[Shown]) -> tuple[str, list[tuple[int, float]], str | None]:
    return "".join(p.text for p in parts), [t for p in parts for t in p.tokens], parts[-1].finish_reason


@st.composite
def responses(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[str]]:
    """Token ids, the same in pieces, and stop strings that may well occur."""
    text = text_of("builtin:renamed_library")
    words = st.text("ab\u00e9\U0001f389 ", max_size=8).map(text.encode)
    anything = st.lists(st.integers(0, VOCABULARY - 1), max_size=3)
    ids = [token for part in draw(st.lists(words | anything, max_size=6)) for token in part]
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    return ids, pieces, draw(st.lists(st.text("ab\u00e9\U0001f389 ", min_size=1, max_size=4), max_size=4))


@given(responses())
def test_a_response_in_pieces_is_shown_as_the_whole_one_and_cut_before_the_first_stop_string(
    response: tuple[list[int], list[list[int]], list[str]],
) -> None:
    ids, pieces, stops = response
    text = text_of("builtin:renamed_library")
    whole = text.decode(ids)
    cuts = [at for at in (whole.find(stop) for stop in stops) if at >= 0]
    parts = shown(text, pieces, stops)
    seen, tokens, reason = joined(parts)
    assert seen == whole[: min(cuts, default=len(whole))]
    assert reason == ("stop" if cuts else "length")
    assert (seen, tokens, reason) == joined(shown(text, [ids], stops))
    assert tokens == [(token, float(place)) for place, token in enumerate(ids)][: len(tokens)]
    if not cuts:
        assert len(tokens) == len(ids)
    for part in parts[:-1]:
        assert part.finish_reason is None


def in_letters(text: str) -> list[list[int]]:
    return [[token] for token in text_of("builtin:renamed_library").encode(text)]


@pytest.mark.parametrize(
    ("stops", "whole", "expected"),
    [
        (["bc"], "abcd", ["a", "", ""]),
        (["abcd", "bc"], "abcd", ["", "", "", ""]),
        (["abce", "bc"], "abcd", ["", "", "", "a"]),
        (["xyz"], "axyw", ["a", "", "", "xyw"]),
        (["aab"], "aaab", ["", "", "a", ""]),
        ([], "abcd", ["a", "b", "c", "d"]),
    ],
)
def test_text_that_may_begin_a_stop_string_is_held_back_and_no_other(
    stops: list[str], whole: str, expected: list[str]
) -> None:
    text = text_of("builtin:renamed_library")
    assert len(in_letters(whole)) == len(whole)
    assert [part.text for part in shown(text, in_letters(whole), stops)] == expected


def test_after_a_cut_the_response_is_over(tiny_model_dir: Path) -> None:
    text = text_of(str(tiny_model_dir))
    choice = Choice(text.stream(), ["b"])
    part = choice.feed(text.encode("abc"), [-1.0, -2.0, -3.0], None)
    assert (part.text, part.finish_reason, choice.finished) == ("a", "stop", True)
    assert part.tokens == [(text.encode("a")[0], -1.0)]
