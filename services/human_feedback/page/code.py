"""A response as HTML: its text unchanged, character for character, with code in colours. Hostile text stays text.

The page counts characters in what is shown to say where a remark belongs: the text of the HTML is the response's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from html import escape

from pygments.lexer import Lexer
from pygments.lexers.data import JsonLexer
from pygments.lexers.python import PythonLexer
from pygments.lexers.shell import BashLexer
from pygments.lexers.sql import SqlLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

MAX_COLOURED_CHARS = 50_000
"""Longer code is shown without colours: they would cost more time than they save."""
BUDGET_S = 0.3
"""Seconds of computing after which the rest of a code is shown without colours: long runs of blanks, for one, make
lexers take time that grows with the square of their length."""
LINES_A_CHUNK = 40
LEXERS: dict[str, type[Lexer]] = {
    "bash": BashLexer,
    "json": JsonLexer,
    "py": PythonLexer,
    "python": PythonLexer,
    "sh": BashLexer,
    "sql": SqlLexer,
}
"""Those whose single steps take no longer than a text is long. Others can be brought to a halt by what a model writes:
50,000 line feeds keep Pygments' lexer of C busy for minutes, in one step."""
COLOURS = (
    (Comment, "c"),
    (String, "s"),
    (Number, "m"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Name.Builtin, "b"),
    (Name.Exception, "b"),
    (Name.Function, "f"),
    (Name.Class, "f"),
    (Name.Decorator, "f"),
)
"""Pygments' kinds of tokens that have a colour, and its class in the page's style sheet; all else has none."""
FENCE = re.compile(r"^(```|~~~)([A-Za-z]*)[^\n]*\n(.*?)(?:^\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
PART = re.compile(rf"(?:[^\n]*\n){{1,{LINES_A_CHUNK}}}|[^\n]+")

Piece = tuple[str, str]
"""The class of a colour, or none; and text."""


def response_html(text: str, *, is_code: bool) -> str:
    """`text` with the code of its fenced blocks in colours; all of it is code if `is_code` and nothing is fenced."""
    return "".join(_chunks(_pieces(text, is_code)))


def code_html(text: str, language: str) -> str:
    """Code in colours, in one piece."""
    return "".join(_html(piece) for piece in _coloured(text, language))


def escaped(text: str) -> str:
    """`text` such that a browser reads exactly it: a bare carriage return would become a line feed."""
    return escape(text).replace("\r", "&#13;")


def _pieces(text: str, is_code: bool) -> Iterator[Piece]:
    end, left = 0, MAX_COLOURED_CHARS
    for fence in FENCE.finditer(text):
        start, stop = fence.span(3)
        yield "", text[end:start]
        language = fence[2].lower() or ("python" if is_code else "")
        yield from _coloured(fence[3], language, left)
        end, left = stop, left - (stop - start)
    yield from _coloured(text[end:], "python" if is_code and end == 0 else "")


def _coloured(text: str, language: str, most: int = MAX_COLOURED_CHARS) -> Iterator[Piece]:
    lexer = LEXERS.get(language)
    if lexer is None or len(text) > most:
        yield "", text
        return
    last, so_far, until = "", "", time.thread_time() + BUDGET_S
    # Not get_tokens: it would change line ends.
    for start, token, value in lexer().get_tokens_unprocessed(text):
        if time.thread_time() > until:
            yield last, so_far
            yield "", text[start:]
            return
        colour = _colour(token)
        # Blanks have no colour: one element reaches over them.
        if colour == last or value.isspace():
            so_far += value
            continue
        yield last, so_far
        last, so_far = colour, value
    yield last, so_far


def _colour(token: _TokenType) -> str:
    return next((name for kind, name in COLOURS if token in kind), "")


def _chunks(pieces: Iterable[Piece]) -> Iterator[str]:
    """Blocks of some lines each: a browser lays out only those that are in view."""
    lines, inside = 0, ""
    for colour, text in pieces:
        for part in PART.findall(text):
            inside += _html((colour, part))
            lines += part.count("\n")
            if lines >= LINES_A_CHUNK and part.endswith("\n"):
                yield f'<div class="chunk">{inside}</div>'
                lines, inside = 0, ""
    if inside:
        yield f'<div class="chunk">{inside}</div>'


def _html(piece: Piece) -> str:
    colour, text = piece
    return f'<span class="{colour}">{escaped(text)}</span>' if colour else escaped(text)
