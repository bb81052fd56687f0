"""Markdown that people write, as HTML: without HTML of its own and without images."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from services.human_feedback.page.code import code_html


def markdown_html(text: str) -> str:
    """`text` as HTML. Its links open elsewhere: the page with the draft stays."""
    return str(_MARKDOWN.render(text))


def _link(
    renderer: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, _: MutableMapping[str, Any]
) -> str:
    tokens[at].attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    return renderer.renderToken(tokens, at, options, _)


def _code(text: str, language: str, _: str) -> str:
    return code_html(text, language.lower())


_MARKDOWN = MarkdownIt("js-default", {"html": False, "linkify": False, "highlight": _code}).disable("image")
_MARKDOWN.add_render_rule("link_open", _link)
