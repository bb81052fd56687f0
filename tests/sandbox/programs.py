"""Helpers of the sandbox's tests: tasks in short, and which tiers this machine has."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from typing import Any

from sandbox.isolation import Isolation, Tier
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import Report, TestReport

DEFAULTS = Defaults(time_limit_s=5.0, memory_limit_mb=128)
RENAMED_LIBRARY = """
def plus(a, b):
    return a + b

def __getattr__(name):
    raise AttributeError(f"module 'lib' has no attribute {name!r}, it was renamed to 'plus'")
"""


def tier_missing(tier: Tier) -> str | None:
    """Why a tier cannot be tested on this machine, asked of the machine and not of our code."""
    if tier == "landlock":
        libc = ctypes.CDLL(None, use_errno=True)
        version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
        return None if version >= 3 else "this kernel has no Landlock of version 3 or later"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    return None if subprocess.run(command, capture_output=True).returncode == 0 else "bubblewrap cannot run here"


def stdin_task(*tests: tuple[str, str], **more: Any) -> CodeTask:
    """A `code.stdin` task with (input, output) tests."""
    return parse_task("code.stdin", {"tests": [{"input": i, "output": o} for i, o in tests], **more})


def call_task(*tests: tuple[str, str], fn_name: str = "solve", **more: Any) -> CodeTask:
    """A `code.functional` task with (input, output) tests."""
    listed = [{"input": i, "output": o} for i, o in tests]
    return parse_task("code.functional", {"tests": listed, "fn_name": fn_name, **more})


def run(isolation: Isolation, task: CodeTask, program: str) -> Report:
    """The report on `program`."""
    return judge(isolation, task, program, DEFAULTS)


def first(isolation: Isolation, program: str, given: str = "", wanted: str = "", **more: Any) -> TestReport:
    """The report on the only test of a stdin program."""
    return run(isolation, stdin_task((given, wanted), **more), program).tests[0]
