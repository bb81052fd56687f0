"""One `vpd up` as a process, and the files of its run."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "e2e-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
RUN_LIMIT_S = 600.0


def free_base_port() -> int:
    """A port with four more free ones after it, below those that the kernel hands out to whoever asks for any."""
    while True:
        base = secrets.choice(range(10_000, 32_000, 10))
        if all(_is_free(base + i) for i in range(5)):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass
class Up:
    """One `vpd up` (or another verb) as a process, and the files of its run."""

    process: subprocess.Popen[str]
    directory: Path
    base_port: int

    def wait(self, limit_s: float = RUN_LIMIT_S) -> str:
        """Everything it printed, once it has ended."""
        output, _ = self.process.communicate(timeout=limit_s)
        return output

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return summary

    def steps(self) -> list[dict[str, Any]]:
        file = self.directory / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [r for r in map(json.loads, lines) if r["kind"] == "step"]

    def run_id(self) -> str:
        run_id: str = json.loads((self.directory / "run.json").read_text())["run_id"]
        return run_id

    def trajectories(self, step: int) -> list[dict[str, Any]]:
        file = self.directory / "trajectories" / f"step_{step:06d}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def until(self, condition: Callable[[], bool], limit_s: float = 180.0) -> None:
        """Poll until the condition holds while the process lives."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, f"vpd ended early:\n{self.process.communicate()[0]}"
            assert time.monotonic() < deadline, "the condition did not come about in time"
            time.sleep(0.1)


Start = Callable[..., Up]


@contextmanager
def starting(directory: Path) -> Iterator[Start]:
    """Start `vpd up` (or another verb) with runs in `directory`; whatever is left of it is ended."""
    started: list[Up] = []

    def start(*arguments: str, name: str = "run", verb: str = "up", base_port: int | None = None) -> Up:
        port = base_port or free_base_port()
        command = [sys.executable, "-m", "cli.main", verb, "--set", f"run.dir={directory}", "--set", f"run.name={name}"]
        if verb == "up":
            command += ["--base-port", str(port)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VPD_")} | {"VPD_API_KEY": KEY}
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        one = Up(process, directory / name, port)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            try:
                one.process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                one.process.kill()


def chosen(**values: Any) -> list[str]:
    """`--set` arguments; `__` stands for the dot."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


SMALL = chosen(evaluation__final_tasks=16, evaluation__tasks=16)
