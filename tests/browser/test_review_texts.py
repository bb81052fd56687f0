"""Texts of rollouts on the review page: hostile ones stay inert, long ones are quick, and every character counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_support import Visitor
from playwright.sync_api import Page, expect
from review_support import a_desk, an_item, box

from shared.protocol import Message, Said, Sibling, Task

pytestmark = pytest.mark.browser
HOSTILE = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><svg onload='window.ran = 3'></svg>\n"
    '</div></pre></textarea></main><a href="javascript:window.ran = 4">here</a><style>body{display:none}</style>\n'
    "```python\nx = '</span><script>window.ran = 5</script>'  # <!-- <script>\n```\n&lt;b&gt; &amp; {{ 7 * 7 }}"
)
SELECT = """([start, end]) => {
    const box = document.getElementById("attempt"), walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let at = 0; walker.nextNode(); at += walker.currentNode.length) {
        const node = walker.currentNode, next = at + node.length;
        if (start >= at && start < next) range.setStart(node, start - at);
        if (end > at && end <= next) range.setEnd(node, end - at);
    }
    getSelection().removeAllRanges();
    getSelection().addRange(range);
}"""


def shown(page: Page) -> str:
    return str(page.evaluate("document.getElementById('attempt').textContent"))


def test_hostile_text_is_inert_wherever_it_stands(visitor: Visitor, tmp_path: Path) -> None:
    item = an_item(
        response=HOSTILE,
        task=Task(id="t", kind="any", messages=[Message(role="system", content=HOSTILE)] * 2),
        siblings=[Sibling(trajectory_id="s", text=HOSTILE + "\n<script>window.ran = 6</script>")],
        said=[Said(source="critic", status="ok", text=HOSTILE)],
    )
    with a_desk(visitor, tmp_path, item, blind=False) as desk:
        page = desk.review(visitor)
        expect(page.locator("#sibling ins")).to_contain_text("window.ran = 6")
        assert shown(page) == HOSTILE
        assert page.locator("#said pre").text_content() == HOSTILE
        assert page.locator("#prompt .message").first.text_content() == HOSTILE
        box(page).fill(HOSTILE)
        page.get_by_role("button", name="Suggest a fix").click()
        page.get_by_label("The response as it should be").press("x")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#preview-text")).to_contain_text("window.ran = 1")
        expect(page.locator("#preview-fix")).to_contain_text("window.ran = 1")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#fate-list")).to_contain_text("window.ran = 1")
        assert page.evaluate("window.ran") is None
        assert page.locator("main script, main img, main svg, main style, main a[href^=javascript]").count() == 0


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"Line {number} of the answer: x = lib.double(x, {number})\n" for number in range(5000))[:200_000],
        "```python\n" + "x = [f'{a}' for a in range(10)]  # a comment\n" * 4500 + "```\n",
        "no line ends here, " * 10_500,
    ],
    ids=["lines", "code", "one line"],
)
def test_200_kb_are_shown_in_under_a_second(visitor: Visitor, tmp_path: Path, text: str) -> None:
    assert len(text) > 199_000
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", text), an_item("demo.0.1.0", "small")) as desk:
        page = desk.review(visitor)
        expect(page.locator("#attempt")).to_have_text("small")
        box(page).fill("done")
        # From the arrival of the task until its text is there and painted.
        took_ms = page.evaluate(
            """() => new Promise((resolve) => {
                const box = document.getElementById("attempt");
                const arrived = () => performance.getEntriesByType("resource").findLast(
                    (entry) => entry.name.endsWith("/claims")).responseEnd;
                new MutationObserver(() => {
                    if (box.textContent.length < 100_000) return;
                    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - arrived())));
                }).observe(box, { childList: true });
                document.getElementById("submit").click();
            })"""
        )
        assert shown(page) == text
        assert page.locator("#attempt *").count() < 5000
        assert took_ms < 1000


def test_a_remark_counts_characters_as_the_service_does(visitor: Visitor, tmp_path: Path) -> None:
    # Two UTF-16 units, a combining mark, line ends of three kinds, and a character that HTML would replace.
    text = "a😀b\r\ne\u0301 = '\u2028'\rnext 🦊🦊 line\n```python\nx = '😀'  # 🦊\n```\nend\n"
    start = text.index("🦊🦊")
    units = len(text[:start].encode("utf-16-le")) // 2
    with a_desk(visitor, tmp_path, an_item(response=text)) as desk:
        page = desk.review(visitor)
        assert shown(page) == text
        page.evaluate(SELECT, [units, units + 4])
        page.get_by_role("button", name="Remark on selection").click()
        expect(page.locator("#remarks blockquote")).to_have_text("🦊🦊")
        page.get_by_label("Remark on this passage").fill("foxes")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        (state,) = desk.critiques()
    assert state["critique"]["spans"] == [{"start": start, "end": start + 2, "text": "foxes"}]
