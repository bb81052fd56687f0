"""What a world's model learns from before any run. Which documents there are is each world's business."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """The user message and the response to learn."""

    message: str
    response: str
