"""Judging a program: run its tests in a sandbox, one after the other, and compare outside.

The first test that fails decides the reward; judging goes on for the feedback until a few have failed, and the rest
are `skipped`. Public tests come first, since only they can be shown. A failure of the sandbox itself is tried once
more and then raised: it is never a verdict. How sandboxes are made is in `isolation.py`, what is said in
`diagnosis.py`.
"""

from __future__ import annotations

import marshal
import signal
import threading
from dataclasses import dataclass, replace

from sandbox.compare import COMPARATORS
from sandbox.confined import CompilerDied, Confined, DriverDied, Job, Limits, Raw, Refused, SandboxFailure
from sandbox.inside import candidate, driver
from sandbox.isolation import Isolation
from sandbox.reference import CodeTask, CodeTest, arguments
from sandbox.stops import find_stop, own_line
from sandbox.verdicts import Frame, ProgramError, Report, TestReport, Verdict

MIB = 2**20
MAX_ERROR_BYTES = 2**17
MAX_FRAMES = 100
COMPILER_DIED = ProgramError("SystemError", "brings down the compiler")
ENDED_EARLY = ProgramError("SystemExit", "the program ended before it returned a value")
BROUGHT_DOWN = TestReport(
    Verdict.RUNTIME_ERROR, error=ProgramError("SystemError", "the program brought down its sandbox")
)


@dataclass(frozen=True)
class Defaults:
    """Limits of tasks that name none: CPU seconds and MiB for each test, how many may fail before the rest are
    skipped."""

    time_limit_s: float = 6.0
    memory_limit_mb: int = 512
    max_failures: int = 3
    output_bytes: int = 16 * MIB


def judge(
    isolation: Isolation,
    task: CodeTask,
    source: str,
    defaults: Defaults,
    *,
    deadline_at: float | None = None,
    cancelled: threading.Event | None = None,
) -> Report:
    """The report on program `source`. Blocks; at most one test process runs at a time.

    Raises SandboxFailure if the sandbox failed twice, DeadlinePassed at `deadline_at` (`time.monotonic`), Cancelled
    soon after `cancelled` is set, DataError if the test code of a `code.assert` task is itself wrong.
    """
    attempt = _Attempt(isolation, task, source, defaults, deadline_at, cancelled)
    try:
        return attempt.run()
    except SandboxFailure:
        return attempt.run(last=True)


def decode_error(payload: bytes, source: str) -> ProgramError:
    """The error a candidate claims. Nothing in it is trusted: the source lines are looked up in our own copy."""
    kind, message, *places = [*payload[:MAX_ERROR_BYTES].decode("utf-8", "replace").split("\0"), "", ""]
    frames = _frames(places, source)
    first = frames[0] if frames else None
    return ProgramError(
        kind[:100] or "Error",
        message[: candidate.MAX_MESSAGE_CHARS + 5],
        first.line if first else None,
        first.function if first else None,
        first.source if first else None,
        first.repeated if first else 1,
        frames[1 : candidate.MAX_FRAMES],
    )


def failure_of(raw: Raw, source: str, limits: Limits) -> TestReport | None:
    """What a test's end says by itself, without its input: None if the program came to a proper end."""
    if raw.ended in (driver.CPU, driver.WALL):
        places = raw.payload[:MAX_ERROR_BYTES].decode("utf-8", "replace").split("\0")[2:]
        stack = _frames(places, source) if raw.tag == candidate.WHERE else ()
        return TestReport(Verdict.TIME_LIMIT, limit=limits.cpu_s, stop=find_stop(stack, source))
    if raw.status == -signal.SIGXCPU:
        return TestReport(Verdict.TIME_LIMIT, limit=limits.cpu_s)
    if raw.ended == driver.OUTPUT or raw.status == -signal.SIGXFSZ:
        # Files have limits of their own.
        written = max(len(raw.output), len(raw.tag + raw.payload) + 1)
        return TestReport(
            Verdict.OUTPUT_LIMIT, limit=limits.output_bytes / MIB if written > limits.output_bytes else None
        )
    if raw.status < 0:
        return _raised(ProgramError("SystemError", f"the program was ended by {_signal(-raw.status)}"))
    if raw.tag == candidate.ERROR:
        error = decode_error(raw.payload, source)
        if error.type == "MemoryError":
            return TestReport(Verdict.MEMORY_LIMIT, limit=limits.memory_bytes / MIB)
        return _raised(error)
    if raw.status > 0:
        return _raised(ProgramError("SystemExit", str(raw.status)))
    return None


class Stopping:
    """When judging stops: after `max_failures`, or when the tests after the first failure have used as many CPU
    seconds as one may, so that loops do not cost as many limits as they are. Never if the reward counts all tests."""

    def __init__(self, task: CodeTask, defaults: Defaults, limits: Limits) -> None:
        self._never = task.reward == "fraction"
        self._failures_left = task.max_failures or defaults.max_failures
        self._budget_s = self._limit_s = limits.cpu_s
        self._failed = False

    @property
    def failures_left(self) -> int | None:
        """How many more tests may fail; None: any number."""
        return None if self._never else self._failures_left

    def after(self, verdict: Verdict, cpu_s: float) -> bool:
        """Whether judging stops after a test that came to `verdict` and used `cpu_s`."""
        if self._failed:
            self._budget_s -= max(cpu_s, self._limit_s if verdict is Verdict.TIME_LIMIT else 0.0)
        if verdict is not Verdict.PASSED:
            self._failed = True
            self._failures_left -= 1
        return self._failed and not self._never and (self._failures_left <= 0 or self._budget_s <= 0)


class _Attempt:
    """One try at judging; `last` makes a driver that died on the program the program's failure."""

    def __init__(
        self,
        isolation: Isolation,
        task: CodeTask,
        source: str,
        defaults: Defaults,
        deadline_at: float | None,
        cancelled: threading.Event | None,
    ) -> None:
        self.isolation = isolation
        self.task = task
        self.source = source
        self.comparator = COMPARATORS[task.comparator]
        self.limits = Limits(
            cpu_s=task.time_limit_s or defaults.time_limit_s,
            memory_bytes=(task.memory_limit_mb or defaults.memory_limit_mb) * MIB,
            output_bytes=defaults.output_bytes,
        )
        self.defaults = defaults
        self.deadline_at = deadline_at
        self.cancelled = cancelled

    def run(self, *, last: bool = False) -> Report:
        """The report, by the rules of the task. Raises DriverDied only if this try is not the `last`."""
        stopping = Stopping(self.task, self.defaults, self.limits)
        try:
            if self.task.kind == "code.assert":
                from sandbox.asserts import judge_asserts

                return self._report(judge_asserts(self.open, self.task, self.source, self.limits, stopping))
            return self._report(self._tests(stopping, last))
        except Refused as refusal:
            return self._compile_error(decode_error(refusal.payload, self.source))
        except CompilerDied:
            if not last:
                raise
            return self._compile_error(COMPILER_DIED)
        except DriverDied:
            if not last:
                raise
            return self._report([BROUGHT_DOWN])

    def open(self, kind: str, source: str, entry: str) -> Confined:
        """A sandbox with this task's files and limits."""
        job = Job(kind, source, self.limits, entry, tuple(self.task.files.items()))
        return Confined(self.isolation, job, deadline_at=self.deadline_at, cancelled=self.cancelled)

    def _tests(self, stopping: Stopping, last: bool) -> list[TestReport]:
        """A report for each test, in order. One that brings its sandbox down fails if it does so in the last try."""
        reports = [TestReport(Verdict.SKIPPED, public=test.public) for test in self.task.tests]
        todo = sorted(range(len(reports)), key=lambda index: not self.task.tests[index].public)
        while todo:
            try:
                self._run_tests(todo, reports, stopping)
            except DriverDied as error:
                if not last or isinstance(error, CompilerDied):
                    raise
                test = self.task.tests[todo[0]]
                reports[todo.pop(0)] = replace(BROUGHT_DOWN, public=test.public)
                if stopping.after(Verdict.RUNTIME_ERROR, 0.0):
                    break
        return [report if report.public else _hidden(report) for report in reports]

    def _run_tests(self, todo: list[int], reports: list[TestReport], stopping: Stopping) -> None:
        """Run tests in one sandbox, taking each out of `todo` when it has its report, until it is time to stop."""
        kind, one = ("stdin", self._stdin) if self.task.kind == "code.stdin" else ("functional", self._functional)
        with self.open(kind, self.source, self.task.fn_name or "") as sandbox:
            while todo:
                test = self.task.tests[todo[0]]
                report, cpu_s = one(sandbox, test)
                reports[todo.pop(0)] = replace(report, public=test.public)
                if stopping.after(report.verdict, cpu_s):
                    todo.clear()

    def _stdin(self, sandbox: Confined, test: CodeTest) -> tuple[TestReport, float]:
        raw = sandbox.test(test.input.encode("utf-8", "surrogatepass"))
        if failure := failure_of(raw, self.source, self.limits):
            return replace(failure, input=test.input), raw.cpu_s
        # Bytes that are no text become what no expected output holds.
        output = raw.output.decode("utf-8", "surrogateescape")
        same = self.comparator.text(output, test.output)
        return replace(_compared(same, test, output), printed=True), raw.cpu_s

    def _functional(self, sandbox: Confined, test: CodeTest) -> tuple[TestReport, float]:
        raw = sandbox.test(marshal.dumps(arguments(test)))
        failure = failure_of(raw, self.source, self.limits)
        if failure is None and raw.tag != candidate.VALUE:
            failure = _raised(ENDED_EARLY)
        if failure is not None:
            return replace(failure, input=test.input), raw.cpu_s
        output = raw.payload.decode("utf-8", "replace")
        return _compared(self.comparator.value(output, test.output), test, output), raw.cpu_s

    def _report(self, tests: list[TestReport]) -> Report:
        return Report(tuple(tests), None, self.task.comparator, self.task.reward)

    def _compile_error(self, error: ProgramError) -> Report:
        tests = (TestReport(Verdict.COMPILE_ERROR),) * max(1, len(self.task.tests))
        return Report(tests, error, self.task.comparator, self.task.reward)


def _frames(places: list[str], source: str) -> tuple[Frame, ...]:
    """Frames from (line, function, repetitions) each. They end at the first whose line the program does not have."""
    frames: list[Frame] = []
    for start in range(0, min(len(places), 3 * MAX_FRAMES), 3):
        line, function, repeated = [*places[start : start + 3], "", ""][:3]
        text = own_line(source, _count(line))
        if text is None:
            break
        frames.append(Frame(_count(line), function[:100] or None, text, max(1, _count(repeated))))
    return tuple(frames)


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def _raised(error: ProgramError) -> TestReport:
    return TestReport(Verdict.RUNTIME_ERROR, error=error)


def _compared(same: bool, test: CodeTest, output: str) -> TestReport:
    return TestReport(Verdict.PASSED if same else Verdict.WRONG_ANSWER, test.input, output, test.output)


def _hidden(report: TestReport) -> TestReport:
    return TestReport(report.verdict, public=False)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
