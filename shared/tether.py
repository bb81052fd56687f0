"""Runs a command that dies with its parent: `python tether.py PARENT_PID COMMAND...`.

Executed as a file, isolated and without site packages, so it starts in a few milliseconds and then becomes the
command (same process id). Where the kernel has no parent-death signal the command runs untethered.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str]) -> list[str]:
    """`command` as this process must start it, so that the kernel kills it when this process dies, however it dies."""
    return [sys.executable, "-IS", os.path.abspath(__file__), str(os.getpid()), *command]  # noqa: PTH100


def main(arguments: list[str]) -> None:
    """Ask for SIGKILL at the parent's death, then become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent is gone")  # it died before the signal was asked for
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
