from __future__ import annotations

import pytest

from services.human_feedback.page.markdown import markdown_html


def test_markdown_is_rendered_with_code_in_colours() -> None:
    html = markdown_html("Use **this**:\n\n```python\nif x: pass\n```")
    assert "<strong>this</strong>" in html
    assert '<span class="k">if </span>x' in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](https://example.org/x.png)",
        "[x](javascript:alert(1))",
        "[x](vbscript:alert(1))",
        "<javascript:alert(1)>",
        '```"><script>alert(1)</script>\nx\n```',
    ],
)
def test_nothing_in_markdown_runs_or_fetches(text: str) -> None:
    html = markdown_html(text)
    assert not any(part in html for part in ("<script", "<img", 'href="javascript', 'href="vbscript'))


def test_links_open_elsewhere_so_that_the_draft_stays() -> None:
    assert 'target="_blank" rel="noopener noreferrer"' in markdown_html("[x](https://example.org)")
