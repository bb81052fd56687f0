"""One sandbox seen from outside: start a driver, give it a program, have tests run, end it and all it left.

Whether a failure is the program's or ours is decided here: a `Raw` result is the program's, `SandboxFailure` is ours.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sandbox.inside import candidate, driver
from sandbox.isolation import Isolation, Place
from shared.errors import DataError, InfrastructureError

START_TIMEOUT_S = 30.0
GRACE_S = 10.0
"""How long past its own limits a driver may take before it counts as hung."""
CLOSED_CHECK_S = 0.2
CPU_LIMIT_STATUSES = (-signal.SIGXCPU, 128 + signal.SIGXCPU)
"""How a driver ends that used up its CPU seconds; the second is how bubblewrap says it."""
FILE_BYTES = 16 * 2**20


class SandboxFailure(InfrastructureError):
    """A sandbox could not be started or did not answer: says nothing about the program in it."""


class DriverDied(SandboxFailure):
    """The driver ended while a program was running: the program's doing, if it happens again."""


class CompilerDied(DriverDied):
    """The driver ended, or did not answer, while it compiled a program: the program's doing, if it happens again."""


class DeadlinePassed(InfrastructureError):
    """The caller's deadline came before the verdict."""


class Cancelled(InfrastructureError):
    """Nobody waits for the verdict any more."""


@dataclass(frozen=True)
class Limits:
    """What one test may use. `cpu_s` CPU seconds, `wall_s` wall-clock seconds as a backstop for idle programs."""

    cpu_s: float
    memory_bytes: int
    output_bytes: int = 16 * 2**20

    @property
    def wall_s(self) -> float:
        """Generous, because a busy machine must not turn a correct program into a slow one."""
        return 3 * self.cpu_s + 2


@dataclass(frozen=True)
class Job:
    """A program to hold. `kind`: stdin, functional, called or asserting (see `inside/candidate.py`)."""

    kind: str
    source: str
    limits: Limits
    entry: str = ""
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Raw:
    """What one test left: how it ended (`inside.driver.BY_ITSELF` and following), exit status (negative: signal),
    standard output, the tag and payload of its answer (empty if it gave none), and the CPU seconds it used."""

    ended: int
    status: int
    output: bytes
    tag: bytes
    payload: bytes
    cpu_s: float = 0.0


class Refused(Exception):
    """The program does not compile; `payload` is its encoded error."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        self.payload = payload


class Confined:
    """A context manager around one driver. Raises SandboxFailure if it cannot be started, Refused if the program
    does not compile, DataError if a support file does not, DeadlinePassed when `deadline_at` (`time.monotonic`) has
    come, Cancelled within `CLOSED_CHECK_S` of `cancelled` being set."""

    def __init__(
        self,
        isolation: Isolation,
        job: Job,
        *,
        deadline_at: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._isolation = isolation
        self._job = job
        self._deadline_at = deadline_at
        self._cancelled = cancelled

    def __enter__(self) -> Self:
        if self._isolation.closed:
            raise SandboxFailure("The sandbox is being shut down.")
        self._scratch = self._isolation.make_scratch()
        try:
            self._process = self._isolation.start()
        except OSError as error:
            self._isolation.remove_scratch(self._scratch)
            raise SandboxFailure(f"A sandbox could not be started: {error}.") from error
        try:
            self._hand_over(self._isolation.place(self._scratch, self._process))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def test(self, data: Any) -> Raw:
        """Run one test; `data` by kind: the input's bytes, marshalled arguments, an argument literal, answers."""
        self._send(data)
        body = self._expect(driver.ENDED, self._job.limits.wall_s + GRACE_S, DriverDied)
        head, _, rest = body.partition(b"\n")
        ended, status, cpu_us, output_length = (int(number) for number in head.split())
        output, answer = rest[:output_length], rest[output_length:]
        if answer[:1] != candidate.CONFINED:
            raise SandboxFailure(f"A limit could not be set: {answer[:200].decode(errors='replace') or 'no answer'}.")
        return Raw(ended, status, output, answer[1:2], answer[2:], cpu_us / 1e6)

    def _hand_over(self, place: Place) -> None:
        job, limits = self._job, self._job.limits
        self._send(
            {
                "tier": self._isolation.tier,
                "scratch": place.scratch,
                "readable": place.readable,
                "user": place.user,
                "own_user": place.own_user,
                "kind": job.kind,
                "source": job.source,
                "entry": job.entry,
                "files": dict(job.files),
                "cpu_s": limits.cpu_s,
                "wall_s": limits.wall_s,
                "memory_bytes": limits.memory_bytes,
                "output_bytes": limits.output_bytes,
                "file_bytes": FILE_BYTES,
            }
        )
        self._expect(driver.READY, START_TIMEOUT_S, SandboxFailure)
        try:
            self._expect(driver.COMPILED, limits.wall_s + GRACE_S, CompilerDied)
        except CompilerDied:
            if self._process.end(by_itself=True) in CPU_LIMIT_STATUSES:
                raise Refused(candidate.encode_error(TimeoutError("takes too long to compile"))) from None
            raise

    def _send(self, frame: Any) -> None:
        body = marshal.dumps(frame)
        view = memoryview(len(body).to_bytes(8, "big") + body)
        try:
            while view:
                view = view[os.write(self._process.input, view) :]
        except OSError as error:
            raise SandboxFailure(f"A sandbox does not take its input: {error}.") from error

    def _expect(self, wanted: bytes, timeout_s: float, death: type[SandboxFailure]) -> bytes:
        ends_at = time.monotonic() + timeout_s
        head = self._read(9, ends_at, death)
        tag, length = head[:1], int.from_bytes(head[1:], "big")
        if length > 3 * self._job.limits.output_bytes + 2**20:
            raise SandboxFailure("A sandbox announced more than it may send.")
        body = self._read(length, ends_at, death)
        if tag == driver.REFUSED:
            raise Refused(body)
        if tag == driver.BAD_FILE:
            kind, message = body.decode(errors="replace").split("\0")[:2]
            raise DataError(f"reference.files do not compile: {kind}: {message}.", field="reference.files")
        if tag != wanted:
            raise SandboxFailure(f"A sandbox failed: {body[:300].decode(errors='replace')}.")
        return body

    def _read(self, count: int, ends_at: float, death: type[SandboxFailure]) -> bytes:
        parts = []
        poll = select.poll()
        poll.register(self._process.output, select.POLLIN)
        while count:
            self._wait(poll, ends_at, death if death is CompilerDied else SandboxFailure)
            try:
                part = self._process.read(min(count, 1 << 20))
            except OSError as error:
                raise SandboxFailure(f"A sandbox cannot be heard: {error}.") from error
            if not part:
                raise death("A sandbox ended before its work was done.")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, poll: select.poll, ends_at: float, late: type[SandboxFailure]) -> None:
        until = ends_at if self._deadline_at is None else min(ends_at, self._deadline_at)
        while (left := until - time.monotonic()) > 0:
            if self._isolation.closed:
                raise SandboxFailure("The sandbox is being shut down.")
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled("Nobody waits for the verdict any more.")
            if poll.poll(min(left, CLOSED_CHECK_S) * 1000):
                return
        if until == self._deadline_at:
            raise DeadlinePassed("The deadline came before the verdict.")
        raise late("A sandbox did not answer in time.")

    def _end(self) -> None:
        self._process.end()
        self._isolation.remove_scratch(self._scratch)
