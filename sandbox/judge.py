"""Judging a program: run its tests in a sandbox, one after the other, and compare outside.

Stops at the first test that fails; the rest are `skipped`. A failure of the sandbox itself is tried once more and
then raised: it is never a verdict. How sandboxes are made is in `isolation.py`, what is said in `diagnosis.py`.
"""

from __future__ import annotations

import marshal
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from sandbox.compare import same_text, same_value
from sandbox.confined import CompilerDied, Confined, DriverDied, Job, Limits, Raw, Refused, SandboxFailure
from sandbox.inside import candidate, driver
from sandbox.isolation import Isolation
from sandbox.reference import CodeTask, CodeTest, arguments
from sandbox.verdicts import ProgramError, Report, TestReport, Verdict

ENDINGS = {
    driver.CPU: Verdict.TIME_LIMIT,
    driver.WALL: Verdict.TIME_LIMIT,
    driver.OUTPUT: Verdict.OUTPUT_LIMIT,
}
COMPILER_DIED = ProgramError("SystemError", "brings down the compiler")
BROUGHT_DOWN = ProgramError("SystemError", "the program brought down its sandbox")


@dataclass(frozen=True)
class Defaults:
    """Limits of tasks that name none: CPU seconds and MiB, for each test."""

    time_limit_s: float = 6.0
    memory_limit_mb: int = 512
    output_bytes: int = 16 * 2**20


def judge(
    isolation: Isolation, task: CodeTask, source: str, defaults: Defaults, *, deadline_at: float | None = None
) -> Report:
    """The report on program `source`. Blocks; at most one test process runs at a time.

    Raises SandboxFailure if the sandbox failed twice, DeadlinePassed at `deadline_at` (`time.monotonic`), DataError if
    the test code of a `code.assert` task is itself wrong.
    """
    attempt = _Attempt(isolation, task, source, defaults, deadline_at)
    try:
        return attempt.run()
    except SandboxFailure:
        return attempt.run(last=True)


def own_line(source: str, line: int | None) -> str | None:
    """Line `line` (1-based) of a program's text, or None if it has no such line."""
    lines = source.splitlines()
    return lines[line - 1] if line is not None and 0 < line <= len(lines) else None


def decode_error(payload: bytes, source: str) -> ProgramError:
    """The error a candidate claims. Nothing in it is trusted: the source line is looked up in our own copy."""
    fields = payload.decode("utf-8", "replace").split("\0") + [""] * 4
    line = int(fields[2]) if fields[2].isascii() and fields[2].isdigit() and len(fields[2]) < 9 else None
    text = own_line(source, line)
    place = (line, fields[3][:100] or None, text) if text is not None else (None, None, None)
    return ProgramError(fields[0][:100] or "Error", fields[1][: candidate.MAX_MESSAGE_CHARS + 5], *place)


def failure_of(raw: Raw, source: str) -> tuple[Verdict, ProgramError | None] | None:
    """What a test's end says by itself: None if the program came to a proper end, else the verdict."""
    if raw.ended in ENDINGS:
        return ENDINGS[raw.ended], None
    if raw.status == -signal.SIGXCPU:
        return Verdict.TIME_LIMIT, None
    if raw.status == -signal.SIGXFSZ:
        return Verdict.OUTPUT_LIMIT, None
    if raw.status < 0:
        return Verdict.RUNTIME_ERROR, ProgramError("SystemError", f"the program was ended by {_signal(-raw.status)}")
    if raw.tag == candidate.ERROR:
        error = decode_error(raw.payload, source)
        return (Verdict.MEMORY_LIMIT, None) if error.type == "MemoryError" else (Verdict.RUNTIME_ERROR, error)
    if raw.status > 0:
        return Verdict.RUNTIME_ERROR, ProgramError("SystemExit", str(raw.status))
    return None


class _Attempt:
    """One try at judging; `last` makes a driver that died on the program the program's failure."""

    def __init__(
        self, isolation: Isolation, task: CodeTask, source: str, defaults: Defaults, deadline_at: float | None
    ) -> None:
        self.isolation = isolation
        self.task = task
        self.source = source
        self.limits = Limits(
            cpu_s=task.time_limit_s or defaults.time_limit_s,
            memory_bytes=(task.memory_limit_mb or defaults.memory_limit_mb) * 2**20,
            output_bytes=defaults.output_bytes,
        )
        self.deadline_at = deadline_at

    def run(self, *, last: bool = False) -> Report:
        done: list[TestReport] = []
        try:
            if self.task.kind == "code.assert":
                from sandbox.asserts import judge_asserts

                return judge_asserts(self.open, self.task, self.source)
            kind = "stdin" if self.task.kind == "code.stdin" else "functional"
            with self.open(kind, self.source, self.task.fn_name or "") as sandbox:
                one = self._stdin if kind == "stdin" else self._functional
                return self._all_tests(sandbox, one, done)
        except Refused as refusal:
            return _compile_error(decode_error(refusal.payload, self.source), max(1, len(self.task.tests)))
        except DriverDied as error:
            if not last:
                raise
            if isinstance(error, CompilerDied):
                return _compile_error(COMPILER_DIED, max(1, len(self.task.tests)))
            return _padded([*done, TestReport(Verdict.RUNTIME_ERROR, error=BROUGHT_DOWN)], len(self.task.tests))

    def open(self, kind: str, source: str, entry: str) -> Confined:
        """A sandbox with this task's files and limits."""
        job = Job(kind, source, self.limits, entry, tuple(self.task.files.items()))
        return Confined(self.isolation, job, deadline_at=self.deadline_at)

    def _all_tests(
        self, sandbox: Confined, one: Callable[[Confined, CodeTest], TestReport], done: list[TestReport]
    ) -> Report:
        for test in self.task.tests:
            report = one(sandbox, test)
            done.append(report if test.public else replace(report, input=None, output=None, expected=None))
            if report.verdict is not Verdict.PASSED:
                break
        return _padded(done, len(self.task.tests))

    def _stdin(self, sandbox: Confined, test: CodeTest) -> TestReport:
        raw = sandbox.test(test.input.encode("utf-8", "surrogatepass"))
        if failure := failure_of(raw, self.source):
            return TestReport(failure[0], test.input, error=failure[1])
        output = raw.output.decode("utf-8", "replace")
        return _compared(same_text(output, test.output), test, output)

    def _functional(self, sandbox: Confined, test: CodeTest) -> TestReport:
        raw = sandbox.test(marshal.dumps(arguments(test)))
        if failure := failure_of(raw, self.source):
            return TestReport(failure[0], test.input, error=failure[1])
        if raw.tag != candidate.VALUE:
            error = ProgramError("SystemExit", "the program ended before it returned a value")
            return TestReport(Verdict.RUNTIME_ERROR, test.input, error=error)
        output = raw.payload.decode("utf-8", "replace")
        return _compared(same_value(output, test.output), test, output)


def _compared(same: bool, test: CodeTest, output: str) -> TestReport:
    return TestReport(Verdict.PASSED if same else Verdict.WRONG_ANSWER, test.input, output, test.output)


def _padded(done: list[TestReport], count: int) -> Report:
    return Report((*done, *(TestReport(Verdict.SKIPPED) for _ in range(count - len(done)))))


def _compile_error(error: ProgramError, count: int) -> Report:
    return Report((TestReport(Verdict.COMPILE_ERROR),) * count, error)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
