"""bench/inference.py runs from end to end and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the path of a Unix socket has 107 bytes at most, and vLLM makes its sockets in TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        yield Path(directory)


def _bench(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.inference", "--quick", *arguments]
    environment = os.environ | {"TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def _mentioning(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if str(folder) in line]


def test_every_part_measures_both_sides_and_its_processes_end_with_it(folder: Path) -> None:
    out, err = (process := _bench(folder)).communicate()
    assert process.returncode == 0, err
    parts = {part.partition(":")[0]: part.splitlines()[2:] for part in out.strip().split("\n\n")}
    assert {name: len(rows) for name, rows in parts.items()} == {"gateway": 1, "engines": 2, "publish": 2, "start": 2}
    for row in [row for rows in parts.values() for row in rows]:
        assert row.startswith("0.4M")
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", row)]
        assert numbers and all(number > 0 for number in numbers)
    assert (_mentioning(folder), list(folder.glob("vpd-*"))) == ([], [])


def test_a_benchmark_that_is_ended_takes_its_processes_along(folder: Path) -> None:
    process = _bench(folder, "start")
    while not _mentioning(folder):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert (_mentioning(folder), list(folder.glob("vpd-*"))) == ([], [])


def test_a_part_that_there_is_not_is_refused(folder: Path) -> None:
    _, err = (process := _bench(folder, "speed")).communicate()
    assert process.returncode == 2
    assert "there is no part 'speed'" in err
