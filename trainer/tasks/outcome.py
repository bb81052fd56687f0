"""What a world's judge says about a response. The types of the wire are in `shared/protocol.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Success and text of the world's outcome source; `text` is None in a world that says success or failure alone."""

    success: bool
    text: str | None
