"""`vpd test` and `vpd lint`: the project's own checks, run from the project's root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.vllm_environment import install_alone
from shared.errors import SettingsError
from shared.load_settings import resolve_settings

ROOT = Path(__file__).resolve().parents[1]


def test(arguments: Sequence[str], suites: Mapping[str, bool]) -> int:
    """Run pytest on the marked `suites` that are asked for, or else on what no mark keeps out: the default suite, the
    chaos runs and those in a browser on all cores, the other marked suites one test (with vLLM two files) at a time.

    Returns its exit code. What the tests with vLLM need is installed first.
    """
    _require_checkout()
    if suites["vllm"]:
        print(install_alone(resolve_settings([], [], {}).settings), flush=True)
    marks = [mark for mark, asked in suites.items() if asked]
    default = ["-m", " and ".join(f"not {mark}" for mark in suites), "-n", str(_cores())]
    chosen = ["-m", " or ".join(marks)] if marks else default
    if marks in (["chaos"], ["browser"]):
        chosen += ["-n", str(_cores())]
    if marks == ["vllm"]:
        # vLLM's start is mostly one process's imports; a file's tests share what they started.
        chosen += ["-n", str(min(2, _cores())), "--dist", "loadfile"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.call([sys.executable, "-m", "pytest", *chosen, *arguments], cwd=ROOT, env=environment)


def lint() -> int:
    """Run ruff's linter, ruff's formatter and mypy; returns 0 if all are content."""
    _require_checkout()
    tools = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
    codes = [subprocess.call([sys.executable, "-m", *tool], cwd=ROOT) for tool in tools]
    return max(codes)


def _require_checkout() -> None:
    if not (ROOT / "tests").is_dir():
        raise SettingsError("Tests and lint need a checkout of the project; this is an installed package.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
