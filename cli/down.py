"""`vpd down`: stopping the stacks that `vpd up` noted below a runs folder."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from cli.claim import Claim, Stack, stacks_below, start_time
from cli.stack import JOB_GRACE_S, is_job
from shared.errors import SettingsError, VPDError

_SUPERVISOR_S = JOB_GRACE_S + 120.0
_PROCESS_S = 10.0
_POLL_S = 0.1


def down(runs: Path, name: str | None) -> str:
    """Stop the stack of run `name`, or the only one there is. Returns a sentence.

    Raises `SettingsError` when several are up and none is named, `VPDError` when one cannot be stopped.
    """
    stacks = stacks_below(runs)
    if name is not None:
        stacks = {path: stack for path, stack in stacks.items() if path.name == name}
    if not stacks:
        return f"No stack{f' named {name}' if name else ''} is up below {runs}."
    if len(stacks) > 1:
        raise SettingsError(f"Several stacks are up, name one of them: {', '.join(path.name for path in stacks)}.")
    ((path, stack),) = stacks.items()
    if stack.supervised():
        _stop_supervisor(path, stack)
    else:
        _stop_processes({name: pid for name, pid in stack.alive().items() if is_job(name)}, JOB_GRACE_S)
        _stop_processes({name: pid for name, pid in stack.alive().items() if name != "redis"}, _PROCESS_S)
        _stop_processes(stack.alive(), _PROCESS_S)
    Claim(path).forget()
    return f"The stack of {path} is down."


def _stop_supervisor(path: Path, stack: Stack) -> None:
    os.kill(stack.supervisor, signal.SIGTERM)
    deadline = time.monotonic() + _SUPERVISOR_S
    while stack.supervised():
        if time.monotonic() > deadline:
            raise VPDError(f"`vpd up` of {path} (process {stack.supervisor}) did not stop in {_SUPERVISOR_S:.0f} s.")
        time.sleep(_POLL_S)


def _stop_processes(pids: dict[str, int], grace_s: float) -> None:
    """SIGTERM, then SIGKILL to what is left of each process group after `grace_s` seconds."""
    began = {pid: start_time(pid) for pid in pids.values()}
    _signal(list(began), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(start_time(pid) == start != "" for pid, start in began.items()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _signal([pid for pid, start in began.items() if start_time(pid) == start], signal.SIGKILL)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            continue
