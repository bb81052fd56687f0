"""Whole runs through the `vpd` command, as a user starts them: every process, service and file is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from vpd_run import HEADERS, KEY, Start, Up, free_base_port

TASK = {
    "id": "add",
    "kind": "code.functional",
    "messages": [{"role": "user", "content": "Write solve(x) that returns x + 1."}],
    "reference": {"fn_name": "solve", "tests": [{"input": "1", "output": "2"}]},
}


@pytest.fixture(scope="module")
def readme_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Makes the README's runs short and puts them into a directory of the test's own."""
    directory = tmp_path_factory.mktemp("readme")
    tasks = directory / "my_tasks.jsonl"
    tasks.write_text("".join(json.dumps(TASK | {"id": f"add-{i}"}) + "\n" for i in range(40)))
    return {k: v for k, v in os.environ.items() if not k.startswith("VPD_")} | {
        "VPD_API_KEY": KEY,
        "VPD_RUN__DIR": str(directory),
        "VPD_RUN__STEPS": "1",
        "VPD_EVALUATION__FINAL_TASKS": "4",
        "TASKS": str(tasks),
    }


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Start]:
    """Start `vpd up` in a directory of the test's own; whatever is left of it is ended."""
    started: list[Up] = []

    def start(*arguments: str, name: str = "run", verb: str = "up", base_port: int | None = None) -> Up:
        port = base_port or free_base_port()
        command = [sys.executable, "-m", "cli.main", verb, "--set", f"run.dir={tmp_path}", "--set", f"run.name={name}"]
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
        one = Up(process, tmp_path / name, port)
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


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a server process and wait until its URL answers; ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], url: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=cwd, env=os.environ | {"VPD_API_KEY": KEY})
        processes.append(process)
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline, f"{command} does not answer at {url}"
            try:
                httpx.get(url, headers=HEADERS, timeout=2, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
