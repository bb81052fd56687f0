"""What all tests share: seeded examples, a real Redis for each worker, and the table of the chaos runs at the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from shared.redis_server import RedisServer
from tests.tiny_model import make_tiny_model

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background of a script: the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run, and no test of wall time.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of an empty Redis that belongs to this worker alone, on a unix socket."""
    # A socket's path has at most 107 bytes: pytest's own temporary directories can be longer.
    folder = Path(tempfile.mkdtemp(prefix="vpd-redis-"))
    try:
        with RedisServer(folder, unix_socket=folder / "redis.sock") as server:
            yield server.url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Qwen3-architecture model with its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was killed in each chaos run, and what became of it. Here, because the process that reports for several
    workers loads no deeper conftest."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = sorted((row, report.outcome) for report in reports for key, row in report.user_properties if key == "chaos")
    if rows:
        terminalreporter.section("runs whose processes were killed")
    for row, outcome in rows:
        terminalreporter.line(f"{row}  {outcome}")
