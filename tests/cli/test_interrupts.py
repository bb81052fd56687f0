"""Signals are noted and taken at safe points; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_support import environment

SCRIPT = """
import os, signal, sys
from cli.interrupts import Interrupts, Stopped
ignored, sent = (sys.argv[i].split(",") if sys.argv[i] else [] for i in (1, 2))
for name in ignored:
    signal.signal(signal.Signals[name], signal.SIG_IGN)
with Interrupts() as interrupts:
    for name in sent:
        os.kill(os.getpid(), signal.Signals[name])
    try:
        interrupts.check()
        print("goes on", interrupts.hurry())
    except Stopped as stopped:
        print(stopped, stopped.exit_code, interrupts.hurry())
"""


@pytest.mark.parametrize(
    ("ignored", "sent", "seen"),
    [
        ("", "", "goes on False"),
        ("", "SIGINT", "SIGINT 130 False"),
        ("", "SIGTERM,SIGINT", "SIGTERM 143 True"),
        ("SIGHUP", "SIGHUP", "goes on False"),
        ("SIGHUP", "SIGHUP,SIGTERM", "SIGTERM 143 False"),
    ],
)
def test_the_first_signal_stops_a_second_hurries_and_ignored_ones_stay_ignored(
    ignored: str, sent: str, seen: str
) -> None:
    arguments = [sys.executable, "-c", SCRIPT, ignored, sent]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=100)
    assert (done.stdout.strip(), done.stderr) == (seen, "")
