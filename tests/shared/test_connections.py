"""Clients that only hold connections, against a service as it is served."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

PATIENCE_S = 20.0
MOST = 20
SERVER = f"""
import asyncio, resource
from shared import connections
from shared.service import create_service, serve
from shared.settings import ServiceSettings, Settings

connections.REQUEST_TIMEOUT_S = 1.0
connections.MAX_CONNECTIONS = {MOST}
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
settings = Settings(service=ServiceSettings(log_format="json"))
app = create_service("try", settings)

@app.post("/v1/slow")
async def slow(seconds: float, body: dict[str, int]) -> float:
    await asyncio.sleep(seconds)
    return seconds

@app.get("/v1/descriptors")
async def descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

serve(app, settings, 0)
"""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            lines = (json.loads(line) for line in process.stderr)
            yield next(line["port"] for line in lines if line.get("event") == "listening")
        finally:
            process.kill()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def is_cut(client: socket.socket) -> bool:
    """Whether the service ends the connection without an answer; waits until it does, or answers."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow",
        b"POST /v1/slow?seconds=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_request_that_is_not_whole_in_time_costs_its_connection(port: int, sent: bytes) -> None:
    with connect(port) as client:
        client.sendall(sent)
        assert is_cut(client)


def test_a_second_request_that_is_not_whole_in_time_costs_its_connection(port: int) -> None:
    with connect(port) as client:
        client.sendall(HEALTH)
        while not client.recv(1 << 16).endswith(b'{"status":"ok"}'):
            pass
        client.sendall(HEALTH[:20])
        assert is_cut(client)


def test_a_request_that_is_whole_may_take_its_time(port: int) -> None:
    with connect(port) as client:
        head = b"POST /v1/slow?seconds=2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: 2\r\n\r\n{}")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_connections_past_the_most_are_cut_and_the_others_served(port: int) -> None:
    head = b"POST /v1/slow?seconds=2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    busy = head + b"Content-Length: 2\r\n\r\n{}"
    clients = [connect(port) for _ in range(MOST + 5)]
    try:
        for client in clients[:MOST]:
            client.sendall(busy)
        assert [is_cut(client) for client in clients] == [False] * MOST + [True] * 5
    finally:
        for client in clients:
            client.close()


def test_the_service_may_open_as_many_descriptors_as_it_is_allowed_to(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"GET /v1/descriptors HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.makefile("rb") as answer:
            body = answer.read().partition(b"\r\n\r\n")[2]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(body) == (min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536)
