"""Whole runs through the `vpd` command, as a user starts them: every process, service and file is real."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_support import chromium, visitor
from vpd_run import HEADERS, KEY, Start, starting

__all__ = ["chromium", "visitor"]


def task(number: int) -> dict[str, Any]:
    return {
        "id": f"add-{number}",
        "kind": "code.functional",
        "messages": [{"role": "user", "content": f"Write solve(x) that returns x + {number}."}],
        "reference": {"fn_name": "solve", "tests": [{"input": "1", "output": str(number + 1)}]},
    }


@pytest.fixture(scope="module")
def readme_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Makes the README's runs short and puts them into a directory of the test's own."""
    directory = tmp_path_factory.mktemp("readme")
    tasks = directory / "my_tasks.jsonl"
    tasks.write_text("".join(json.dumps(task(i)) + "\n" for i in range(40)))
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
    with starting(tmp_path) as start:
        yield start


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
