"""A real Trackio server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

TOKEN = "a-write-token"
_SHOW = "import sys, trackio; trackio.show(open_browser=False, server_port=int(sys.argv[1]), block_thread=True)"


class TrackioProcess:
    """Use as a context manager. Killed and started again it has the same address and database."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = os.environ | {"TRACKIO_DIR": str(directory), "TRACKIO_WRITE_TOKEN": TOKEN}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-c", _SHOW, str(self.port)]
        self._process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline
            assert self._process.poll() is None, "the server ended"
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def revive(self) -> None:
        """Start it again unless it answers."""
        if not self._answers():
            self.kill()
            self.start()

    def hang(self) -> None:
        """Connections are taken, and never answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def steps(self, run_id: str, project: str) -> list[int]:
        """The steps of a run's rows, as the server has them."""
        return [row["step"] for row in self.rows(run_id, project)]

    def rows(self, run_id: str, project: str) -> list[dict[str, Any]]:
        question = {"args": [], "kwargs": {"project": project, "run": run_id}}
        answer = httpx.post(f"{self.url}/api/get_logs", json=question, timeout=30.0).raise_for_status()
        return list(answer.json()["data"] or ())

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/version", timeout=5.0).json()["api_version"] == 1
        except (httpx.HTTPError, ValueError, KeyError):
            return False
