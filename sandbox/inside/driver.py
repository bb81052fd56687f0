"""The process that holds one candidate: confines itself, compiles the program once, forks a process for each test.

It talks to the service over its standard input (marshalled frames) and output (tagged frames), one request at a
time. It sees one input at a time and never an expected output. Candidate code runs only in the forked processes,
which hold neither end of that conversation. What a candidate may send back is decided in `candidate.py`.
"""

# ruff: noqa: PTH123
from __future__ import annotations

import gc
import marshal
import os
import select
import sys
import time

from sandbox.inside import candidate, confine, scratch, where

TYPE_CHECKING = False  # importing typing would cost every candidate milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, TypeVar

    T = TypeVar("T")

ANSWER = 3
"""The descriptor a candidate answers on, in its own process."""
CONFINED, CONFINED_BYTES = 4, 1000
"""The descriptor on which it says that it is locked in, or what went wrong, in so many bytes at most. It is closed
before any code of the candidate runs, which could else take back what was said."""
TICK_S = 0.1
FORGOTTEN = ("sandbox", "ctypes", "_ctypes", "_socket", "faulthandler")
"""Modules a program does not find imported."""

READY, COMPILED, REFUSED, BAD_FILE, ENDED, FAILED = b"R", b"C", b"X", b"S", b"T", b"F"
"""In this order: READY when all is done that is not the program's doing, so that what happens next is."""
BY_ITSELF, CPU, WALL, OUTPUT = 0, 1, 2, 3
"""How a test ended: by itself, or killed by the driver for CPU seconds, wall-clock seconds or output."""


class Driver:
    """One candidate program under test."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.own_user = bool(job["own_user"])
        self.base_bytes = _address_space_bytes()
        self.bridge: Any = None
        if job["kind"] in ("called", "asserting"):
            from sandbox.inside import asserting

            self.bridge = asserting
        os.chdir(job["scratch"])

    def confine(self) -> None:
        """Lock this process, and so all it forks, into the tier the job names."""
        confine.volunteer_to_be_killed()
        if self.job["tier"] == "unsafe":
            confine.adopt_orphans()
            confine.die_with_parent()
            return
        directory = self.job["scratch"]
        if confine.drop_privileges(directory, self.job["readable"], self.job["user"]):
            self.own_user = True
        confine.die_with_parent()
        confine.forbid_new_privileges()
        if self.job["tier"] == "landlock":
            confine.restrict_files(self.job["readable"], directory)
        confine.filter_driver()

    def compile_files(self) -> dict[str, CodeType]:
        """The task's support files as code. Raises what the compiler raises."""
        files: dict[str, str] = self.job["files"]
        return self._limited(lambda: {name: compile(text, name, "exec", 0, True) for name, text in files.items()})

    def compile(self, files: dict[str, CodeType]) -> candidate.Program:
        """The program as code, with its support files. Raises what the compiler raises."""
        source, kind = self.job["source"], self.job["kind"]
        to_code = self.bridge.instrument if kind == "asserting" else _compile
        main: CodeType = self._limited(lambda: to_code(source))
        solution = kind != "stdin" and self._limited(lambda: candidate.defines_solution(source))
        if solution:
            exec(candidate.LEETCODE_NAMES, {})  # imported here, they cost the forked processes nothing
        program = candidate.Program(kind, main, files, self.job["entry"], solution)
        program.bridge = self.bridge
        return program

    def test(self, program: candidate.Program, data: Any) -> tuple[int, int, float, bytes, bytes]:
        """Run one test: how it ended, the exit status (negative: the signal), the CPU seconds it used, the output, the
        candidate's answer."""
        answer_read, answer_write = os.pipe()
        output_read, output_write = os.pipe()
        confined_read, confined_write = os.pipe()
        stdin = self._stdin(data)
        pid = os.fork()
        if pid == 0:
            self._become_candidate(program, data, stdin, output_write, answer_write, confined_write)
        for fd in (answer_write, output_write, confined_write, stdin):
            os.close(fd)
        try:
            confined = _read(CONFINED_BYTES, confined_read)
            ended, output, answer = self._watch(pid, output_read, answer_read)
        finally:
            for fd in (answer_read, output_read, confined_read):
                os.close(fd)
        _, status, usage = os.wait4(pid, 0)
        confine.end_children()
        scratch.clear(".")
        return ended, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, output, confined + answer

    def _limited(self, compiling: Callable[[], T]) -> T:
        """Run the compiler as if it were a test: small programs exist that take it gigabytes or minutes."""
        confine.limit_compiling(self.base_bytes + self.job["memory_bytes"], int(self.job["cpu_s"]) + 1)
        try:
            return compiling()
        except MemoryError:
            raise MemoryError("too big or too deeply nested to compile") from None
        finally:
            confine.lift_compiling_limits()

    def _stdin(self, data: Any) -> int:
        if self.job["kind"] != "stdin":
            return os.open("/dev/null", os.O_RDONLY)
        fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def _become_candidate(
        self, program: candidate.Program, data: Any, stdin: int, output: int, answer: int, confined: int
    ) -> None:
        try:
            os.dup2(stdin, 0)
            os.dup2(output, 1)
            os.dup2(answer, ANSWER, inheritable=False)
            os.dup2(confined, CONFINED, inheritable=False)
            os.closerange(CONFINED + 1, 1 << 16)
            confine.die_with_parent()
            memory = self.base_bytes + self.job["memory_bytes"]
            confine.limit(memory, int(self.job["cpu_s"]) + 2, self.job["file_bytes"], self.own_user)
            if self.job["tier"] != "unsafe":
                confine.filter_candidate()
        except (OSError, ValueError) as error:
            os.write(CONFINED, str(error).lower().encode())
            os._exit(1)
        os.write(CONFINED, candidate.CONFINED)
        os.close(CONFINED)
        try:
            candidate.run(program, data, ANSWER)
        except MemoryError:
            os.write(ANSWER, candidate.OUT_OF_MEMORY)
        finally:  # nothing that goes wrong in a candidate may go on as its driver
            os._exit(1)

    def _watch(self, pid: int, output: int, answer: int) -> tuple[int, bytes, bytes]:
        """Drain the candidate's output and answer until it has ended, killing it at the first limit it passes."""
        process = os.pidfd_open(pid)
        streams = {output: bytearray(), answer: bytearray()}
        poll = select.poll()
        for fd in (process, *streams):
            poll.register(fd, select.POLLIN)
        now = time.monotonic()
        deadline, look_at = now + self.job["wall_s"], now + TICK_S
        clock = (~pid << 3) | 2  # CPU seconds of all threads of process `pid`
        ended, alive, open_streams, stack = BY_ITSELF, True, set(streams), list[tuple[int, str]]()
        try:
            while alive or open_streams:
                events = poll.poll(TICK_S * 1000)
                for fd, _ in events:
                    if fd == process:
                        alive = False
                        poll.unregister(process)
                    elif not self._drain(fd, streams[fd]):
                        open_streams.discard(fd)
                        poll.unregister(fd)
                if not alive and not events:
                    break  # an orphan of the unsafe tier holds a stream open
                if alive and ended == BY_ITSELF:
                    ended = self._limit_passed(clock, deadline, streams)
                    if time.monotonic() >= look_at:  # a clock of its own: output must not put it off
                        ended = ended or (OUTPUT if scratch.too_much(".") else BY_ITSELF)
                        look_at = time.monotonic() + TICK_S
                    if ended in (CPU, WALL) and answer in open_streams:
                        stack = where.ask(pid, answer)
                    if ended != BY_ITSELF:
                        os.kill(pid, confine.SIGKILL)
        finally:
            os.close(process)
        said = bytes(streams[answer])
        if ended in (CPU, WALL):
            said = candidate.WHERE + candidate.encode_place(stack) if stack else b""
        return ended, bytes(streams[output]), said

    def _drain(self, fd: int, into: bytearray) -> bool:
        chunk = os.read(fd, 1 << 16)
        if len(into) <= self.job["output_bytes"]:
            into += chunk
        return bool(chunk)

    def _limit_passed(self, clock: int, deadline: float, streams: dict[int, bytearray]) -> int:
        if any(len(stream) > self.job["output_bytes"] for stream in streams.values()):
            return OUTPUT
        try:
            if time.clock_gettime(clock) > self.job["cpu_s"]:
                return CPU
        except OSError:
            return BY_ITSELF
        return WALL if time.monotonic() > deadline else BY_ITSELF


def main() -> None:
    """Serve one candidate until the service closes our input."""
    driver = Driver(_receive())
    del sys.path[0]
    try:
        driver.confine()
    except (OSError, KeyError) as error:
        _send(FAILED, f"{type(error).__name__}: {error}".encode())
        return
    os.environ.clear()
    tag = BAD_FILE
    try:
        files = driver.compile_files()
        _send(READY)
        tag = REFUSED
        program = driver.compile(files)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        _send(tag, candidate.encode_error(error))
        return
    where.answer_on(ANSWER)
    for name in [name for name in sys.modules if name.partition(".")[0] in FORGOTTEN]:
        del sys.modules[name]
    gc.freeze()
    _send(COMPILED)
    while (data := _receive()) is not None:
        try:
            ended, status, cpu_s, output, answer = driver.test(program, data)
        except OSError as error:
            _send(FAILED, f"{type(error).__name__}: {error}".encode())
            return
        _send(ENDED, b"%d %d %d %d\n" % (ended, status, int(1e6 * cpu_s), len(output)), output, answer)


def _compile(source: str) -> CodeType:
    return compile(source, candidate.FILE, "exec", 0, True)


def _receive() -> Any:
    header = _read(8)
    if len(header) < 8:
        return None
    return marshal.loads(_read(int.from_bytes(header, "big")))


def _read(count: int, fd: int = 0) -> bytes:
    parts = []
    while count and (part := os.read(fd, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(tag: bytes, *parts: bytes) -> None:
    body = b"".join(parts)
    view = memoryview(tag + len(body).to_bytes(8, "big") + body)
    while view:
        view = view[os.write(1, view) :]


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * 4096
    except OSError:
        return 64 * 2**20


if __name__ == "__main__":
    main()
    os._exit(0)
