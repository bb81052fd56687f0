"""The program in a response. Text only: whether it runs is somebody else's business."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_PROGRAM = "No program: put your code in one ```python block."
CUT_OFF = "No program: the last code block is not closed; the response was cut off before its end."

_OPENING = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[^\s`]*)[^`\n]*$")
_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_PYTHON = frozenset({"python", "python3", "py", "python2", "py3"})


@dataclass(frozen=True)
class Extracted:
    """`program`, or None and a sentence for its writer that says why there is none."""

    program: str | None
    failure: str | None = None


def extract_program(text: str) -> Extracted:
    """The last fenced block tagged Python, else the last fenced block; blocks in <think> do not count.

    An unclosed last fence is a failure even if an earlier block is whole: the writer was not done.
    """
    blocks, unclosed = _blocks(_answer(text))
    if unclosed:
        return Extracted(None, CUT_OFF)
    if not blocks:
        return Extracted(None, NO_PROGRAM)
    tagged = [program for tag, program in blocks if tag in _PYTHON]
    return Extracted(tagged[-1] if tagged else blocks[-1][1])


def _answer(text: str) -> str:
    # Some chat templates open <think> in the prompt, so that only its end is in the response.
    before, end, after = text.partition("</think>")
    if end and "<think>" not in before:
        text = after
    return _THINKING.sub("", text)


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(tag, content) of every closed block, and whether the last fence stayed open."""
    blocks: list[tuple[str, str]] = []
    fence, tag, lines = "", "", list[str]()
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if fence:
            if _closes(line, fence):
                blocks.append((tag, "".join(f"{one}\n" for one in lines)))
                fence = ""
            else:
                lines.append(line)
        elif opening := _OPENING.match(line):
            fence, tag, lines = opening["fence"], opening["tag"].lower(), []
    return blocks, bool(fence)


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}
