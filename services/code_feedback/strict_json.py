"""Request bodies read strictly: what two readers of JSON could understand differently is refused (RFC 8259, RFC 7493).

`StrictRoute` is a route whose body is UTF-8 JSON without a content coding, without a name twice in one object and
without half a surrogate pair. Every refusal is a problem that names the field, before the body means anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from shared.hang_up import CLIENT_CLOSED_REQUEST
from shared.problems import MAX_FIELD_CHARS, Problem

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class StrictRoute(APIRoute):
    """A route whose body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which sees the document that was read."""
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def strictly(request: Request) -> Response:
            return await handle(await _read(request) if has_body else request)

        return strictly


class _ReadRequest(Request):
    """A request whose body has been read."""

    def __init__(self, request: Request, body: bytes, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._read_body = body
        self._document = document

    async def body(self) -> bytes:
        return self._read_body

    async def json(self) -> Any:
        return self._document


async def _read(request: Request) -> Request:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        detail = "The body must not have a content coding (gzip and the like): send it as it is."
        headers = {"Accept-Encoding": "identity"}
        raise Problem(415, "Unsupported Media Type", detail, field="Content-Encoding", headers=headers)
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise Problem(CLIENT_CLOSED_REQUEST, "Client Closed Request", "The client hung up.") from error
    return _ReadRequest(request, body, read_json(body) if body else None)


def read_json(body: bytes) -> Any:
    """The value of a JSON text. Raises Problem (422), which names the field where there is one."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_object)
        if _SURROGATE.search(body):
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _wrong(f"It is not valid JSON at character {error.pos}") from error
    except UnicodeDecodeError as error:
        raise _wrong(f"It is not UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise _wrong("It holds half of a surrogate pair") from error
    except RecursionError as error:
        raise _wrong("It is nested too deeply") from error
    except ValueError as error:
        raise _wrong("It holds too long a number") from error
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _wrong("It stands twice in one object", _first_twice(pairs))
    return found


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name[:MAX_FIELD_CHARS].encode(errors="replace").decode()
        seen.add(name)
    raise AssertionError("no name stands twice")


def _wrong(message: str, field: str = "body") -> Problem:
    return Problem(422, "Invalid Request", f"Field '{field}' is wrong: {message}.", field=field)
