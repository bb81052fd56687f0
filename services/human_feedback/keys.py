"""Scoped keys: who may read, review, write or do everything, told apart by the bearer key.

The stack's key (`api_key`) is the admin's. Of the other keys only digests are stored; one that is neither set nor
stored is made at the first start and printed once. Without a stack's key the service is open, as every service is.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

import structlog
from fastapi import Request, Security
from fastapi.security import SecurityScopes
from pydantic import SecretStr
from sqlalchemy import Connection, select
from starlette.types import ASGIApp, Receive, Scope, Send

from services.human_feedback.tables import keys, upsert
from shared.middleware import OPEN_PATHS
from shared.problems import Problem, ProblemResponse
from shared.settings import Settings

GRANTS = {
    "read": frozenset({"read"}),
    "review": frozenset({"read", "review"}),
    "ingest": frozenset({"read", "ingest"}),
    "admin": frozenset({"read", "review", "ingest", "admin"}),
}
"""What the key of each scope may do."""


class Keys:
    """The digests of the keys in use, by scope; none while the service is open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._digests: dict[str, bytes] = {}

    @property
    def open(self) -> bool:
        """Whether no key is asked for."""
        return self._settings.api_key is None

    def load(self, db: Connection) -> dict[str, str]:
        """Read the keys, and make those that are missing; the new ones, by scope."""
        own, new = self._settings.human_feedback, {}
        given = {
            "read": own.read_key,
            "review": own.review_key,
            "ingest": own.ingest_key,
            "admin": self._settings.api_key,
        }
        if self.open:
            return {}
        for scope, key in given.items():
            stored = db.scalar(select(keys.c.digest).where(keys.c.scope == scope))
            if key is None and stored is None:
                key = SecretStr(secrets.token_urlsafe(24))
                new[scope] = key.get_secret_value()
                upsert(db, keys, {"scope": scope, "digest": _digest(new[scope].encode()).hex()})
            self._digests[scope] = (
                bytes.fromhex(stored or "") if key is None else _digest(key.get_secret_value().encode())
            )
        return new

    def grants(self, authorization: bytes) -> frozenset[str] | None:
        """What the holder of a bearer key may do; None: it is no key of ours. Takes as long whichever key it is."""
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        matching = [scope for scope, known in self._digests.items() if hmac.compare_digest(digest, known)]
        if scheme.lower() != b"bearer" or not matching:
            return None
        return frozenset().union(*(GRANTS[scope] for scope in matching))


class ScopedAuth:
    """ASGI: lets through who holds any key, and leaves what it grants in `scope["state"]` for `needs`."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if self.keys.open or path in OPEN_PATHS:
            granted: frozenset[str] | None = GRANTS["admin"] if self.keys.open else frozenset()
        else:
            granted = self.keys.grants(dict(scope["headers"]).get(b"authorization", b""))
        if granted is None:
            detail = "Send a key of this service as 'Authorization: Bearer KEY'."
            response = ProblemResponse(401, "Unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["granted"] = granted
        await self.app(scope, receive, send)


async def _check(request: Request, security: SecurityScopes) -> None:
    # A plain function would be sent to a thread, at every request.
    if not set(security.scopes) <= request.state.granted:
        wanted = " and ".join(security.scopes)
        raise Problem(403, "Forbidden", f"This key may not do that: the route needs a key with scope '{wanted}'.")


def needs(scope: str) -> Any:
    """A route's dependency: the caller's key grants `scope`."""
    return Security(_check, scopes=[scope])


def announce(new: dict[str, str]) -> None:
    """Print new keys, the only time that they are seen."""
    log = structlog.get_logger("human-feedback")
    for scope, key in new.items():
        log.warning("a new key, shown this once: keep it", scope=scope, key=key)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
