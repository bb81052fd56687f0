"""What the tests of the code-feedback service share: items to judge, raw clients, the service as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.protocol import Feedback, FeedbackResponse

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
LOOP = "while True: pass"
ECHO = {"tests": [{"input": "7", "output": "7"}], "time_limit_s": 60}
SERVER = """
import sys
from services.code_feedback.app import create_app
from shared.service import serve
from shared.settings import CodeFeedbackSettings, ServiceSettings, Settings
settings = Settings(
    code_feedback=CodeFeedbackSettings(isolation=sys.argv[1], workers=2),
    service=ServiceSettings(log_format="json"),
)
serve(create_app(settings), settings, 0)
"""


def block(program: str) -> str:
    """A response that holds `program`."""
    return f"```python\n{program}\n```"


def item_of(name: str, text: str, kind: str, reference: dict[str, Any]) -> dict[str, Any]:
    """An item with response `text` to a task."""
    return {
        "trajectory_id": name,
        "group_id": "g",
        "policy_version": 0,
        "task": {
            "id": "t",
            "kind": kind,
            "messages": [{"role": "user", "content": "Write the program."}],
            "reference": reference,
        },
        "response": {"text": text},
    }


def item(name: str, program: str, **reference: Any) -> dict[str, Any]:
    """An item whose program reads 7 and is to print it."""
    return item_of(name, block(program), "code.stdin", ECHO | reference)


def request(*items: dict[str, Any], deadline_s: float = 120.0) -> dict[str, Any]:
    """The body of `POST /v1/feedback`."""
    return {"run_id": "r", "deadline_s": deadline_s, "items": list(items)}


def ask(url: str, *items: dict[str, Any], deadline_s: float = 120.0, **headers: str) -> list[Feedback]:
    """The results of items that are to be judged."""
    response = httpx.post(
        f"{url}/v1/feedback", json=request(*items, deadline_s=deadline_s), headers=headers, timeout=150
    )
    assert response.status_code == 200, response.text
    return FeedbackResponse.model_validate(response.json()).results


class RawClient:
    """A client that speaks HTTP byte by byte."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)

    def post(self, body: bytes, *, declared: int | None = None, headers: str = "") -> None:
        """Send a request with this body, whose length is said to be `declared`."""
        length = len(body) if declared is None else declared
        head = f"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
        self.socket.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)

    def read_until(self, wanted: bytes, times: int = 1) -> bytes:
        """What arrives up to where `wanted` has come so many times."""
        found = b""
        while found.count(wanted) < times:
            part = self.socket.recv(1 << 16)
            assert part, found
            found += part
        return found

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def metric(url: str, name: str) -> float:
    """The value of a metric; 0 if it has none yet."""
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def waiting(url: str) -> float:
    """How many programs wait or run."""
    return metric(url, "vpd_code_feedback_waiting")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so; fails after `PATIENCE_S` seconds."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


@dataclass
class Service:
    """A service that is a process of its own, with `directory` as its temporary one."""

    process: subprocess.Popen[bytes]
    url: str
    directory: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def processes(self) -> list[int]:
        """The processes, besides its own, that were started from its directory and are not dead."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_sandbox(path)]

    def drivers(self) -> list[tuple[int, int]]:
        """The processes that were forked by one of those, each with its parent."""
        ours = self.processes()
        parents = [(pid, int(_stat(Path(f"/proc/{pid}"))[1])) for pid in ours]
        return [(pid, parent) for pid, parent in parents if parent in ours]

    def leftovers(self) -> list[str]:
        """What is in its directory."""
        return sorted(path.name for path in self.directory.iterdir())

    def _is_sandbox(self, process: Path) -> bool:
        try:
            command = (process / "cmdline").read_bytes()
            return str(self.directory).encode() in command and _stat(process)[0] != "Z"
        except (OSError, IndexError):
            return False


def _stat(process: Path) -> list[str]:
    return (process / "stat").read_text().rpartition(")")[2].split()


@contextmanager
def service(directory: Path, tier: str) -> Iterator[Service]:
    """The service as a process with `directory` as its temporary one, serving."""
    command = [sys.executable, "-c", SERVER, tier]
    environment = os.environ | {"TMPDIR": str(directory)}
    with (
        tempfile.NamedTemporaryFile(prefix="vpd-service-", suffix=".log") as stderr,
        subprocess.Popen(command, env=environment, stderr=stderr, cwd=ROOT) as process,
    ):
        log = Path(stderr.name)
        try:
            eventually(lambda: _port(log) is not None or process.poll() is not None, "it listens")
            assert process.poll() is None, log.read_text()
            yield Service(process, f"http://127.0.0.1:{_port(log)}", directory)
        finally:
            process.kill()


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory that any user may enter, unlike pytest's: sandboxes run as users of their own."""
    with tempfile.TemporaryDirectory(prefix="vpd-service-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _port(log: Path) -> int | None:
    events = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return next((event["port"] for event in events if event.get("event") == "listening"), None)
