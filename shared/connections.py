"""Connections of an HTTP service, bounded in number and in patience, so that clients that only hold them do no harm."""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 4096
REQUEST_TIMEOUT_S = 60.0
"""From its connection, or from the answer before, a request must be whole within this time."""
MAX_DESCRIPTORS = 65_536


class BoundedConnection(H11Protocol):
    """Cut off if there are `MAX_CONNECTIONS` already, or if its request is not whole within `REQUEST_TIMEOUT_S`."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._be_patient()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._be_patient()
        super().on_response_complete()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(REQUEST_TIMEOUT_S, self._lose_patience)

    def _lose_patience(self) -> None:
        in_work = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if not in_work:
            self.transport.abort()


def allow_descriptors() -> None:
    """Raise the soft limit on descriptors, which is often 1024, as far as the hard one allows: a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
