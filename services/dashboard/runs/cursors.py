"""Cursors of pages: a few values as a word for a URL."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from shared.errors import DataError


def encoded(values: Sequence[Any]) -> str:
    """The cursor that holds these values."""
    return base64.urlsafe_b64encode(json.dumps(list(values)).encode()).decode()


def decoded(cursor: str, length: int) -> list[Any]:
    """The `length` values of a cursor. Raises DataError where it holds something else."""
    try:
        values = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise wrong() from error
    if not isinstance(values, list) or len(values) != length:
        raise wrong()
    return values


def wrong() -> DataError:
    """What a cursor that is none of ours is answered with."""
    return DataError("Field 'cursor' is wrong: it is not the next_cursor of a page.", field="cursor")
