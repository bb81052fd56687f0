from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.human_feedback.page.code import MAX_COLOURED_CHARS, code_html, response_html

PIECES = (
    "```python\n",
    "```\n",
    "~~~\n",
    "def f(x):",
    "'",
    '"""',
    "<script>",
    "</span>",
    "&lt;",
    "\r",
    "\r\n",
    "😀",
    "\n",
    "# ",
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join)


class Read(HTMLParser):
    """What a browser shows of some HTML, and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements = "", set[tuple[str, tuple[str, ...]]]()
        self.feed(html)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add((tag, tuple(name for name, _ in attrs)))


@given(TEXTS, st.booleans())
def test_the_html_of_a_response_reads_as_the_response_and_has_no_elements_but_ours(text: str, is_code: bool) -> None:
    read = Read(response_html(text, is_code=is_code))
    assert read.text == text
    assert read.elements <= {("div", ("class",)), ("span", ("class",))}


def test_code_is_coloured_in_fences_and_without_them_where_all_is_code() -> None:
    coloured = '<span class="k">if </span>x'
    assert coloured in response_html("if y:\n```python\nif x\n```\n", is_code=False)
    assert coloured not in response_html("if x\n```text\nif x\n```", is_code=True)
    assert coloured in response_html("if x", is_code=True)
    assert coloured not in response_html("if x", is_code=False)


def test_a_long_text_is_in_blocks_of_whole_lines() -> None:
    html = response_html("a line\n" * 1000, is_code=False)
    blocks = html.removesuffix("</div>").split("</div>")
    assert len(blocks) == 25
    assert all(block.endswith("\n") for block in blocks)


@pytest.mark.parametrize(("language", "unit"), [("python", "\n "), ("bash", "{é"), ("json", "a-"), ("sql", "={")])
def test_no_text_keeps_a_lexer_busy(language: str, unit: str) -> None:
    text = (unit * MAX_COLOURED_CHARS)[:MAX_COLOURED_CHARS]
    began = time.thread_time()
    assert Read(code_html(text, language)).text == text
    assert time.thread_time() - began < 3
