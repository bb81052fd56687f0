from __future__ import annotations

import re
from html import unescape

from hypothesis import assume, given
from hypothesis import strategies as st

from services.human_feedback.page.diff import MAX_LINES, diff_html

LINES = st.lists(st.sampled_from(["a", "b", "x = f(1)", "x = g(1)", "<ins>", "&", "", "\r", "\u2028"]), max_size=12)


def lines(html: str) -> tuple[list[str], list[str]]:
    """The two texts that a difference shows, where nothing is folded."""
    shown = re.findall(r"<(div|del|ins)>(.*?)</\1>", html, re.DOTALL)
    texts = [(name, unescape(re.sub(r"</?mark>", "", text))[2:]) for name, text in shown]
    return [text for name, text in texts if name != "ins"], [text for name, text in texts if name != "del"]


@given(LINES, LINES)
def test_a_difference_has_every_line_of_both_texts_in_order(left: list[str], right: list[str]) -> None:
    html = diff_html("\n".join([*left, "end"]), "\n".join([*right, "end"]))
    assume("fold" not in html)
    assert lines(html) == ([*left, "end"], [*right, "end"])


def test_what_differs_within_a_line_is_marked() -> None:
    html = diff_html("x = lib.double(x)\n", "x = lib.twofold(x)\n")
    assert html == "<del>- x = lib.<mark>double</mark>(x)</del><ins>+ x = lib.<mark>twofold</mark>(x)</ins>"


def test_equal_lines_far_from_a_change_are_folded() -> None:
    same = [f"line {number}" for number in range(20)]
    html = diff_html("\n".join([*same, "old"]), "\n".join([*same, "new"]))
    assert '<div class="fold">17 equal lines</div><div>  line 17</div>' in html
    assert "line 16" not in html


def test_texts_too_long_to_pair_are_shown_one_after_the_other() -> None:
    long = "\n".join(["a"] * (MAX_LINES + 1))
    assert diff_html(long, "a").startswith("<del>- a</del>")
