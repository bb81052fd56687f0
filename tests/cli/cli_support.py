"""What several CLI tests need: the `vpd` command as a real process, waiting, and whether a process lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cli.claim import start_time

DEADLINE_S = 100.0


def environment(**extra: str) -> dict[str, str]:
    """This environment without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VPD_")}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"} | extra


def vpd(*arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `vpd` to its end."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=DEADLINE_S
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "cli.main", *arguments]


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr, without its prefix."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    return lines[0].removeprefix("error: ")


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Poll until it holds; fails after a generous deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    return start_time(pid) != ""


def python(code: str, *arguments: str) -> Sequence[str]:
    """A small real program."""
    return [sys.executable, "-IS", "-c", code, *arguments]
