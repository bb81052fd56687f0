"""A critique as words for the teacher."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.critique_text import critique_text, has_words
from shared.protocol import Critique, Span

RESPONSE = "def f(x):\n    return x + 1\n"


def test_a_text_alone_is_itself() -> None:
    assert critique_text(Critique(text="Use minus.\n"), RESPONSE) == "Use minus."


def test_remarks_quote_their_passages_in_their_order_and_the_corrected_response_comes_last() -> None:
    plus, whole = RESPONSE.index("x + 1"), len(RESPONSE)
    spans = [Span(start=plus, end=plus + 5, text="minus"), Span(start=0, end=whole, text="rename it")]
    critique = Critique(text="Wrong.", spans=spans, corrected_response="def g(x):\n    return x - 1\n")
    assert critique_text(critique, RESPONSE) == (
        "Wrong.\n\nOn these lines:\ndef f(x):\n    return x + 1\nRemark: rename it\n\nOn `x + 1`: minus\n\n"
        "A corrected response:\ndef g(x):\n    return x - 1"
    )


@pytest.mark.parametrize("span", [(99, 120), (3, 3), (9, 10)])
def test_a_remark_on_nothing_is_the_remark(span: tuple[int, int]) -> None:
    spans = [Span(start=span[0], end=span[1], text="off by one")]
    assert critique_text(Critique(spans=spans), RESPONSE) == "off by one"


def test_a_long_passage_is_cut_in_its_middle() -> None:
    text = critique_text(Critique(spans=[Span(start=0, end=5000, text="too long")]), "x" * 5000)
    assert len(text) < 500 and "characters left out" in text


WORDS = st.text(max_size=9)
SPANS = st.builds(Span, start=st.integers(0, 40), end=st.integers(0, 40), text=st.text(max_size=5))


@given(
    st.builds(Critique, text=WORDS, spans=st.lists(SPANS, max_size=3), corrected_response=WORDS),
    st.text(max_size=30),
)
def test_there_is_text_exactly_where_there_are_words_and_every_word_is_in_it(critique: Critique, response: str) -> None:
    text = critique_text(critique, response)
    assert bool(text) == has_words(critique)
    for said in (critique.text, critique.corrected_response or "", *(span.text for span in critique.spans)):
        assert said.strip() in text
