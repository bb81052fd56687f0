"""What another text has in place of this one's lines, as HTML. Hostile text stays text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest

from services.human_feedback.page.code import escaped

MAX_LINES = 1_000
"""Of longer texts the lines are not paired: all of one stand before all of the other."""
CONTEXT_LINES = 3
"""Equal lines shown around a change."""


def diff_html(ours: str, theirs: str) -> str:
    """Lines that only `ours` has as `<del>`, those that only `theirs` has as `<ins>`, with what differs within a pair
    of lines marked; equal lines but for the nearest folded into their number."""
    # Not splitlines: it also splits at characters that are no line ends to a program.
    left, right = ours.removesuffix("\n").split("\n"), theirs.removesuffix("\n").split("\n")
    changes = list(_changes(left, right))
    parts: list[str] = []
    for number, (i, i_end, j, j_end) in enumerate(changes):
        if left[i:i_end] == right[j:j_end]:
            parts += _equal(left[i:i_end], first=number == 0, last=number == len(changes) - 1)
        else:
            parts += _changed(left[i:i_end], right[j:j_end])
    return "".join(parts)


def _changes(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """Ranges of lines that are equal, or stand in place of each other."""
    if max(len(left), len(right)) > MAX_LINES:
        yield 0, len(left), 0, len(right)
        return
    for _, i, i_end, j, j_end in SequenceMatcher(None, left, right).get_opcodes():
        yield i, i_end, j, j_end


def _equal(lines: Sequence[str], *, first: bool, last: bool) -> Iterator[str]:
    before, after = (0 if first else CONTEXT_LINES), (0 if last else CONTEXT_LINES)
    folded = len(lines) - before - after
    if folded <= 1:
        yield from (f"<div>  {escaped(line)}</div>" for line in lines)
        return
    yield from (f"<div>  {escaped(line)}</div>" for line in lines[:before])
    yield f'<div class="fold">{folded} equal lines</div>'
    yield from (f"<div>  {escaped(line)}</div>" for line in lines[len(lines) - after :])


def _changed(left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    paired = len(left) == len(right)
    yield from _marked("del", "- ", left, right if paired else ())
    yield from _marked("ins", "+ ", right, left if paired else ())


def _marked(name: str, sign: str, lines: Sequence[str], others: Sequence[str]) -> Iterator[str]:
    for line, other in zip_longest(lines, others):
        same = 0 if other is None else _common(line, other)
        rest = line[same:]
        tail = 0 if other is None else _common(rest[::-1], other[same:][::-1])
        middle, end = rest[: len(rest) - tail], rest[len(rest) - tail :]
        # A mark of a whole line says nothing.
        inside = f"<mark>{escaped(middle)}</mark>" if same + tail > 0 and middle else escaped(middle)
        yield f"<{name}>{sign}{escaped(line[:same])}{inside}{escaped(end)}</{name}>"


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
