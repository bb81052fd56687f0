"""Answers under an idempotency key, stored in the transaction of what they answer: a repeated request changes nothing
and gets the same answer, also after a restart. For one day."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy import Connection, delete, insert, select

from services.human_feedback.tables import answers
from shared.errors import DataError

KEPT_S = 86_400.0

Answer = tuple[int, str]
"""Status and JSON body."""


class KeyReused(DataError):
    """The key was used for another request."""


def once(db: Connection, key: str, request: bytes, answer: Callable[[], Answer], *, now: float) -> Answer:
    """The answer under `key`, made by `answer` if there is none. Raises KeyReused if `request` is another one."""
    db.execute(delete(answers).where(answers.c.answered_at < now - KEPT_S))
    # Digests, since a header may hold bytes that a text column cannot.
    name, digest = _digest(key.encode()), _digest(request)
    row = db.execute(select(answers).where(answers.c.key == name)).mappings().one_or_none()
    if row is not None and row["request"] != digest:
        message = "The Idempotency-Key was used for a different request: give each request its own."
        raise KeyReused(message, field="Idempotency-Key")
    if row is not None:
        return row["status"], row["body"]
    status, body = answer()
    db.execute(insert(answers).values(key=name, request=digest, status=status, body=body, answered_at=now))
    return status, body


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
