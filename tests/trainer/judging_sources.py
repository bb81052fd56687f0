"""Feedback sources that misbehave on cue and answer well after it, in a thread or as a process that can be killed.

What a well one says depends on the response's text alone, so that any two runs can be compared. Run as a script, this
file is such a source: `python judging_sources.py PORT DIES_AT` kills itself at its request number DIES_AT (0: never).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CAPABILITIES = {"name": "theirs", "version": "7", "kind": "rule", "gives_reward": True, "gives_text": True}


def verdict(item: dict[str, Any], **said: Any) -> dict[str, Any]:
    """What a well source says of an item: the reward is 1 where its text has an even length."""
    text = item["response"]["text"]
    siblings = [f"{s['trajectory_id']} {s['reward']}" for s in item["siblings"]]
    remark = f"{text} is {len(text)} long; its reward so far is {item['reward']}; beside it are {siblings}."
    ids = {"trajectory_id": item["trajectory_id"], "feedback_id": f"{item['trajectory_id']}:theirs"}
    source = {"name": "theirs", "kind": "rule", "version": "7"}
    return {**ids, "status": "ok", "source": source, "reward": float(len(text) % 2 == 0), "text": remark, **said}


@dataclass
class Source:
    """Does what `script` says with its first requests, then answers well; `asked` holds the trajectory ids of each.

    A cue is a status code; `hang`; the bytes of an answer; `late`, which gives every item the wrong reward once the
    next request has come; or the fields of each result that differ from a well one's, by trajectory id.
    """

    script: list[Any] = field(default_factory=list)
    always: Any = None
    max_items: int = 100
    asked: list[list[str]] = field(default_factory=list)
    _next_came: asyncio.Event = field(default_factory=asyncio.Event)
    _late_said: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The source as an ASGI application."""
        if scope["type"] == "http":
            await _drain(receive, body := bytearray())
            status, answer = await self._answer(scope["path"], bytes(body))
            headers = [(b"content-length", str(len(answer)).encode()), (b"retry-after", b"0")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            if self._next_came.is_set():
                self._late_said.set()

    async def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path.endswith("/capabilities"):
            return 200, json.dumps({**CAPABILITIES, "max_items": self.max_items, "needs_siblings": True}).encode()
        items = json.loads(body)["items"]
        cue = self.script[len(self.asked)] if len(self.asked) < len(self.script) else self.always
        self.asked.append([item["trajectory_id"] for item in items])
        if cue == "hang":
            await asyncio.Event().wait()
        if cue == "late":
            await self._next_came.wait()
            return 200, _results([{**verdict(i), "reward": 1 - verdict(i)["reward"]} for i in items])
        if "late" in self.script:
            self._next_came.set()
            await self._late_said.wait()
        if isinstance(cue, int):
            return cue, b"{}"
        if isinstance(cue, bytes):
            return 200, cue
        said = [(item, (cue or {}).get(item["trajectory_id"], {})) for item in items]
        return 200, _results([verdict(item, **fields) for item, fields in said if fields is not None])


@dataclass
class Killable:
    """A source in a process of its own that is killed at its request number `dies_at`, then started again."""

    port: int
    started: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def killable(dies_at: int) -> Iterator[Killable]:
    """Started again on the same port as often as it is killed, till the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        source = Killable(probe.getsockname()[1])
    over = threading.Event()
    processes: list[subprocess.Popen[bytes]] = []

    def start(dies: int) -> None:
        command = [sys.executable, str(Path(__file__)), str(source.port), str(dies)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert processes[-1].stdout is not None and processes[-1].stdout.readline() == b"ready\n"
        source.started += 1

    def supervise() -> None:
        while processes[-1].wait() is not None and not over.is_set():
            start(0)

    start(dies_at)
    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    try:
        yield source
    finally:
        over.set()
        processes[-1].kill()
        supervisor.join(30)
        for process in processes:
            assert process.stdout is not None
            process.stdout.close()


async def _drain(receive: Any, body: bytearray) -> None:
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return


def _results(results: list[dict[str, Any]]) -> bytes:
    return json.dumps({"results": results}).encode()


def _serve(port: int, dies_at: int) -> None:
    seen: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(json.dumps({**CAPABILITIES, "max_items": 1, "needs_siblings": True}).encode())

        def do_POST(self) -> None:
            items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
            seen.append(1)
            if len(seen) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self._send(_results([verdict(item) for item in items]))

        def log_message(self, *_: Any) -> None:
            return

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
