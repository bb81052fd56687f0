"""The processes of drivers: started for one candidate, or forked for it by a warm server. No word of what is said to
them, which is `confined.py`, nor of what they may do, which is `isolation.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence

ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "TZ": "UTC", "LANG": "C.UTF-8"}
"""All a sandboxed interpreter gets, and what the driver clears before it runs a program."""
EXIT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 10.0


class DriverProcess(ABC):
    """A driver: descriptors to write to it (`input`) and to wait for what it says (`output`), ours until `end`.
    `number` is one that no other driver has meanwhile."""

    input: int
    output: int
    number: int

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of what it says, when `output` is readable; none at its end."""
        return os.read(self.output, count)

    @abstractmethod
    def end(self, *, by_itself: bool = False) -> int:
        """Kill the driver and all it started, wait for it, close our descriptors. Its exit status (negative: the
        signal that ended it). `by_itself`: it is about to end, and how it does is of interest. Can be repeated."""


class LocalProcess(DriverProcess):
    """A driver on this machine, at the other ends of two pipes."""

    def __init__(self) -> None:
        theirs_in, self.input = os.pipe()
        self.output, theirs_out = os.pipe()
        self._status: int | None = None
        try:
            self._start(theirs_in, theirs_out)
        except OSError:
            self._close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def end(self, *, by_itself: bool = False) -> int:
        """As in DriverProcess."""
        if self._status is None:
            self._close()
            self._status = self._stop(by_itself)
        return self._status

    def _close(self) -> None:
        os.close(self.input)
        os.close(self.output)

    @abstractmethod
    def _start(self, theirs_in: int, theirs_out: int) -> None: ...

    @abstractmethod
    def _stop(self, by_itself: bool) -> int: ...


class Started(LocalProcess):
    """A driver with a command of its own. Raises OSError if it cannot be started."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        super().__init__()

    def _start(self, theirs_in: int, theirs_out: int) -> None:
        self._process = _popen(self._command, theirs_in, theirs_out)
        self.number = self._process.pid

    def _stop(self, by_itself: bool) -> int:
        if by_itself:  # killed now, it could not say how it ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(EXIT_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


class Server:
    """One warm interpreter (`inside/server.py`), which holds at most one driver at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(ANSWER_TIMEOUT_S)
        with theirs:
            self._process = _popen(command, theirs.fileno(), subprocess.DEVNULL)
        self.pid = self._process.pid

    def fork(self, theirs_in: int, theirs_out: int) -> None:
        """Fork a driver with these as standard input and output. Raises OSError if the server is gone."""
        socket.send_fds(self._control, [b"F"], [theirs_in, theirs_out])

    def end_driver(self) -> int:
        """End the driver; its exit status. Raises OSError if the server is gone, and the driver with it."""
        self._control.sendall(b"E")
        answer = self._control.recv(16)
        if not answer:
            raise ConnectionResetError("The server of drivers is gone.")
        return int(answer)

    def close(self) -> None:
        """End the server and the driver it holds."""
        self._process.kill()
        self._process.wait()
        self._control.close()


class Servers:
    """As many servers as there were drivers at once. One that died is replaced when it is next needed."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._idle: list[Server] = []
        self._closed = False

    def warm(self) -> None:
        """Start a first server now, so that the first candidate need not wait."""
        with contextlib.suppress(OSError):  # said when it is needed
            self.give_back(Server(self._command))

    def fork(self, theirs_in: int, theirs_out: int) -> Server:
        """The server that forked a driver with these descriptors. Raises OSError if none can be started."""
        while True:
            server, fresh = self._take()
            try:
                server.fork(theirs_in, theirs_out)
            except OSError:
                server.close()
                if fresh:
                    raise
                continue
            return server

    def give_back(self, server: Server) -> None:
        """Keep a server whose driver has ended for the next one."""
        self._idle.append(server)
        if self._closed:
            self.close()

    def close(self) -> None:
        """End the idle servers; the others end when they are given back."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _take(self) -> tuple[Server, bool]:
        try:
            return self._idle.pop(), False
        except IndexError:
            return Server(self._command), True


class Forked(LocalProcess):
    """A driver forked by one of `servers`. Raises OSError if it cannot be."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        super().__init__()

    def _start(self, theirs_in: int, theirs_out: int) -> None:
        self._server = self._servers.fork(theirs_in, theirs_out)
        self.number = self._server.pid

    def _stop(self, by_itself: bool) -> int:
        try:
            status = self._server.end_driver()
        except OSError:
            self._server.close()
            return -signal.SIGKILL
        self._servers.give_back(self._server)
        return status


def _popen(command: Sequence[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
