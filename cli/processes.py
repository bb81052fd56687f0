"""Starts, watches, restarts and stops the processes of a stack. Knows nothing about what they do.

Each process leads a session of its own, so that Ctrl-C in the terminal reaches only the supervisor, which then stops
the tiers in order: what uses a service goes before the service.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import InfrastructureError
from shared.tether import tethered

_POLL_S = 0.05
_TAIL_LINES = 5
_FULL_DISK_BYTES = 2**20


class ProcessFailed(InfrastructureError):
    """A process of the stack ended and cannot be restarted; the sentence has its last words."""


@dataclass(frozen=True)
class Spec:
    """A process to run. `tier` orders stopping: higher tiers stop first."""

    name: str
    command: Sequence[str]
    tier: int = 0
    restarts: int = 0
    """How often it is started again after dying."""
    ends: bool = False
    """Whether it ends by itself. Such a process is started again only where a signal killed it: with code 0 it is
    finished, and any other code ends the stack with its last words."""
    optional: bool = False
    """Whether the stack goes on without it once it may not be started again."""
    grace_s: float = 30.0
    """How long it may take to end once it is asked to."""
    environment: Mapping[str, str] | None = None
    """The whole environment; None: the supervisor's own."""


@dataclass
class _Running:
    spec: Spec
    process: subprocess.Popen[bytes]
    log_start: int
    restarts_left: int
    exit_code: int | None = field(default=None)


class Supervisor:
    """The processes of one stack, their output in `logs`/NAME.log.

    `tethered` processes are killed by the kernel when the supervisor dies, however it dies. `say` gets a line for
    every restart.
    """

    def __init__(self, logs: Path, *, tethered: bool = True, say: Callable[[str], None] = print) -> None:
        self._logs = logs
        self._tethered = tethered
        self._say = say
        self._running: dict[str, _Running] = {}

    def start(self, spec: Spec) -> None:
        """Start a process; returns at once."""
        self._running[spec.name] = self._launch(spec, spec.restarts)

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run."""
        return {name: one.process.pid for name, one in self._running.items() if one.process.poll() is None}

    def died(self, name: str) -> bool:
        """Whether the process has ended, without restarting it."""
        return self._running[name].process.poll() is not None

    def check(self) -> None:
        """Restart what died and may be; raises `ProcessFailed` for what may not be and is not finished."""
        for name, one in list(self._running.items()):
            code = one.process.poll()
            if code is None or one.exit_code is not None:
                continue
            if one.spec.ends and code >= 0:
                one.exit_code = code
                if code != 0:
                    raise self.failure(name)
            elif one.restarts_left == 0 and one.spec.optional:
                one.exit_code = code
                self._say(f"{self.failure(name)}; the run goes on without it.")
            elif one.restarts_left == 0:
                raise self.failure(name)
            else:
                self._say(f"{name} {_how(code)}; starting it again ({one.restarts_left} left).")
                self._kill_group(one)
                self._running[name] = self._launch(one.spec, one.restarts_left - 1)

    def finished(self, names: Iterable[str]) -> bool:
        """Whether all of these ended with 0. Call after `check`."""
        return all(self._running[name].exit_code == 0 for name in names)

    def failure(self, name: str) -> ProcessFailed:
        """The error for a process that ended: how, how often, and its last words."""
        one = self._running[name]
        code = one.process.wait()
        again_and_again = one.spec.restarts and not one.restarts_left and not (one.spec.ends and code >= 0)
        times = f" {one.spec.restarts + 1} times" if again_and_again else ""
        words = last_words(self.log(name), one.log_start)
        if shutil.disk_usage(self._logs).free < _FULL_DISK_BYTES:
            words = f"the disk of {self._logs} is full, so its log may lack the reason; free some space and go on"
        return ProcessFailed(f"{name} {_how(code)}{times}: {words} (log: {self.log(name)})")

    def log(self, name: str) -> Path:
        """Where the output of a process goes."""
        return self._logs / f"{name}.log"

    def finish(self, *, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Ask what ends by itself to end, and wait: whether there is such a process and all of them did so.

        SIGKILL for what is left after its grace, or once `hurry` says so. Raises `ProcessFailed` for one that ended
        with an error instead.
        """
        jobs = {name: one for name, one in self._running.items() if one.spec.ends}
        _terminate(list(jobs.values()), hurry)
        for name, one in jobs.items():
            if one.process.wait() > 0:
                raise self.failure(name)
        # One that SIGTERM ended had not begun its work.
        return bool(jobs) and all(one.process.wait() in (0, -signal.SIGTERM) for one in jobs.values())

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM tier by tier, SIGKILL for what is left after its grace, or once `hurry` says so.

        Stopping twice does nothing.
        """
        for tier in sorted({one.spec.tier for one in self._running.values()}, reverse=True):
            members = [one for one in self._running.values() if one.spec.tier == tier]
            _terminate(members, hurry)
            for one in members:
                self._kill_group(one)
        self._running.clear()

    def release(self) -> None:
        """Forget the processes and leave them running."""
        self._running.clear()

    def _launch(self, spec: Spec, restarts_left: int) -> _Running:
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(spec.name).open("ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                tethered(spec.command) if self._tethered else spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if spec.environment is None else dict(spec.environment),
                start_new_session=True,
            )
            return _Running(spec, process, start, restarts_left)

    @staticmethod
    def _kill_group(one: _Running) -> None:
        # Its own children may outlive it in its group; an empty group is gone, which is what we want.
        try:
            os.killpg(one.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def last_words(log: Path, start: int = 0) -> str:
    """The last line that says `error:` after byte `start` of a log, else its last lines joined."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 65_536))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else " | ".join(lines[-_TAIL_LINES:]) or "it left no message"


def _terminate(members: Sequence[_Running], hurry: Callable[[], bool]) -> None:
    began = time.monotonic()
    for one in members:
        one.process.terminate()
    while not hurry() and any(_may_take_longer(one, began) for one in members):
        time.sleep(_POLL_S)
    for one in members:
        one.process.kill()
        one.process.wait()


def _may_take_longer(one: _Running, began: float) -> bool:
    return one.process.poll() is None and time.monotonic() < began + one.spec.grace_s


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
