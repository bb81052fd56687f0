"""Text that others wrote, fit for a terminal: a rollout may hold whatever moves a cursor or turns a line around."""

from __future__ import annotations

from rich.text import Text

INDENT = "  "


def plain(text: str, *, lines: int | None = None, style: str = "") -> Text:
    """The text as it is, with whatever is no visible character written out; after `lines` lines it is cut."""
    kept = text.split("\n") if lines is None else text.split("\n")[:lines]
    more = text.count("\n") + 1 - len(kept)
    shown = Text("\n".join(_visible(line) for line in kept), style=style)
    return shown.append(f"\n({more} more line{'s' if more > 1 else ''})", style="dim") if more else shown


def one_line(text: str) -> Text:
    """The text on one line, its spaces shortened, to be cut where the space ends."""
    return Text(_visible(" ".join(text.split())), no_wrap=True, overflow="ellipsis")


def _visible(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "replace").decode() for c in line)
