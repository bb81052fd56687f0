"""How every asynchronous HTTP client of the project is made, and how a process puts applications in reach of them.

`mounted` answers for an origin (scheme, host, port) by an ASGI application in this process: clients made inside its
block talk to the same URLs as ever, without a socket. What is asked and answered is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import httpx

Application = Callable[..., Any]
"""An ASGI application."""

_mounted: ContextVar[Mapping[str, Application]] = ContextVar("mounted applications", default={})  # noqa: B039


def http_client(**options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` without a timeout of its own: httpx's restart at every byte, and so are no deadline.

    Callers bound each call with `asyncio.timeout`.
    """
    mounts = {origin: _InProcess(app=application) for origin, application in _mounted.get().items()}
    return httpx.AsyncClient(timeout=None, mounts=mounts, **options)


@contextmanager
def mounted(applications: Mapping[str, Application]) -> Iterator[None]:
    """Clients made inside the block reach `applications` at their base URLs; a URL's path is not looked at.

    Their lifespans are the caller's to run.
    """
    token = _mounted.set({**_mounted.get(), **{origin(url): app for url, app in applications.items()}})
    try:
        yield
    finally:
        _mounted.reset(token)


def origin(url: str) -> str:
    """`http://host:port` of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _InProcess(httpx.ASGITransport):
    """Answers in a task of its own, as a server does: an application may outlive the caller that gave it up."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answering = asyncio.create_task(super().handle_async_request(request))
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            # An application that answers its own cancellation would otherwise swallow the caller's.
            answering.cancel()
            raise
