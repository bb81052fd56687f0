"""The program in a response. Text only: whether it runs is somebody else's business."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_PROGRAM = "No program: put your code in one ```python block."
CUT_OFF = "No program: the last code block is not closed; the response was cut off before its end."

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?:(?P<fence>`{3,})(?P<info>[^`\n]*)|(?P<tildes>~{3,})(?P<text>[^\n]*))$")
_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_PYTHON = re.compile(r"[ \t]*\{?\.?(?:python|py|pypy)(?:[ \t{,:=}]|[\d.]|$)", re.IGNORECASE)
TAB_COLUMNS = 4
MAX_CLOSING_COLUMNS = 3


@dataclass(frozen=True)
class Extracted:
    """`program`, or None and a sentence for its writer that says why there is none."""

    program: str | None
    failure: str | None = None


def extract_program(text: str) -> Extracted:
    """The last fenced block tagged Python, else the last fenced block; blocks in <think> do not count.

    Fences are CommonMark's (0.31, section 4.5), of backticks or tildes: a block ends at a fence of the same character
    that is at least as long, has nothing behind it and stands at most three columns further right than the first one,
    so that a fence in an indented docstring ends nothing; the last line of a response may stand anywhere. Blocks may
    be in a list: lines lose the indentation of their fence. An unclosed last fence is a failure even if an earlier
    block is whole: the writer was not done. A program without any fence is a failure too: where the words end and the
    program begins would be a guess.
    """
    blocks, unclosed = _blocks(_answer(text))
    if unclosed:
        return Extracted(None, CUT_OFF)
    if not blocks:
        return Extracted(None, NO_PROGRAM)
    tagged = [program for info, program in blocks if _PYTHON.match(info)]
    return Extracted(tagged[-1] if tagged else blocks[-1][1])


def _answer(text: str) -> str:
    # Some chat templates open <think> in the prompt, so that only its end is in the response.
    before, end, after = text.partition("</think>")
    if end and "<think>" not in before:
        text = after
    return _THINKING.sub("", text)


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(text behind the fence, content) of every closed block, and whether the last fence stayed open."""
    blocks: list[tuple[str, str]] = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    all_lines = text.rstrip().split("\n")
    for number, line in enumerate(all_lines, 1):
        line = line.removesuffix("\r")
        if opening is None:
            opening, lines = _OPENING.match(line), []
        elif _closes(line, opening, anywhere=number == len(all_lines)):
            indent = _columns(opening["indent"])
            content = "".join(f"{_without_indent(one, indent)}\n" for one in lines)
            blocks.append((opening["info"] or opening["text"] or "", content))
            opening = None
        else:
            lines.append(line)
    return blocks, opening is not None


def _closes(line: str, opening: re.Match[str], *, anywhere: bool) -> bool:
    fence, bare = opening["fence"] or opening["tildes"], line.strip(" \t")
    if len(bare) < len(fence) or set(bare) != {fence[0]}:
        return False
    return anywhere or _columns(line) <= _columns(opening["indent"]) + MAX_CLOSING_COLUMNS


def _columns(line: str) -> int:
    """How far the first character that is no blank is from the margin."""
    blanks = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blanks.expandtabs(TAB_COLUMNS))


def _without_indent(line: str, columns: int) -> str:
    """`line` without its first blanks, as many as take `columns`."""
    at = 0
    while at < len(line) and line[at] in " \t" and _columns(line[: at + 1]) <= columns:
        at += 1
    return line[at:]
