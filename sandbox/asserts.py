"""`code.assert`: two sandboxes and a messenger between them. The test code asks, the candidate answers.

Neither sees the other: see `inside/asserting.py`. Answers are text of Python literals on the whole way; nothing the
candidate sends is decoded here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

from sandbox.confined import Confined, DriverDied, Limits, Refused
from sandbox.inside import candidate, driver
from sandbox.judge import ENDED_EARLY, Stopping, decode_error, failure_of
from sandbox.reference import CodeTask
from sandbox.verdicts import ProgramError, TestReport, Verdict
from shared.errors import DataError

MAX_CALLS = 1000
OpenSandbox = Callable[[str, str, str], Confined]
Answer = tuple[str, str, str]
Failed = tuple[str, str, int]
State = tuple[int, int, list[Failed], str | None]
PASSED, SKIPPED = TestReport(Verdict.PASSED), TestReport(Verdict.SKIPPED)


def judge_asserts(
    open_sandbox: OpenSandbox, task: CodeTask, source: str, limits: Limits, stopping: Stopping
) -> list[TestReport]:
    """The reports on `source`: one test for each assertion, those that passed first. Raises DataError if the test
    code is wrong."""
    assert task.test_code is not None and task.entry_point is not None
    with open_sandbox("called", source, task.entry_point) as program:
        try:
            tests = open_sandbox("asserting", task.test_code, task.entry_point).__enter__()
        except Refused as refusal:
            wrong = decode_error(refusal.payload, task.test_code)
            raise DataError(
                f"reference.test_code: {wrong.type}: {wrong.message}", field="reference.test_code"
            ) from None
        except DriverDied as error:
            raise DataError("reference.test_code cannot be compiled.", field="reference.test_code") from error
        try:
            reports = _Conversation(program, tests, source, limits, stopping).run()
        finally:
            tests.__exit__(None, None, None)
    return [report if task.public else TestReport(report.verdict, public=False) for report in reports]


class _Conversation:
    """The test code asks and the candidate answers, until there is no question left or it is time to stop."""

    def __init__(self, program: Confined, tests: Confined, source: str, limits: Limits, stopping: Stopping) -> None:
        self.program = program
        self.tests = tests
        self.source = source
        self.limits = limits
        self.stopping = stopping
        self.max_failures = stopping.failures_left or 0
        self.answers: list[Answer] = []
        self.ends: list[TestReport | None] = []
        """What the end of each call says by itself; None where the candidate returned or left quietly."""
        self.failures: list[TestReport] = []

    def run(self) -> list[TestReport]:
        """The reports. Raises DataError if the test code is wrong."""
        used_s = 0.0
        while True:
            passed, total, failed, call = self._ask()
            if self._stops(failed, used_s) or call is None:
                skipped = total - passed - len(self.failures)
                return [*[PASSED] * passed, *self.failures, *[SKIPPED] * skipped]
            if len(self.answers) == MAX_CALLS:
                raise DataError(f"reference.test_code makes more than {MAX_CALLS} calls.", field="reference.test_code")
            used_s = self._answer(call)

    def _ask(self) -> State:
        try:
            raw = self.tests.test((self.answers, self.max_failures))
        except DriverDied as error:
            raise DataError("reference.test_code brought down its sandbox.", field="reference.test_code") from error
        if raw.ended != driver.BY_ITSELF or raw.tag != candidate.VALUE:
            why = decode_error(raw.payload, "").message if raw.tag == candidate.ERROR else "it passed a limit"
            raise DataError(f"reference.test_code failed: {why}.", field="reference.test_code")
        state: State = ast.literal_eval(raw.payload.decode("utf-8", "surrogatepass"))
        return state

    def _answer(self, call: str) -> float:
        """Have a call made and note its answer; the CPU seconds it used."""
        raw = self.program.test(call)
        end = failure_of(raw, self.source, self.limits)
        if raw.tag == candidate.ERROR:
            error = decode_error(raw.payload, self.source)
            answer = call, error.type, error.message
        elif end is not None:
            answer = call, "ended", ""
        elif raw.tag == candidate.VALUE:
            answer = call, "value", raw.payload.decode("utf-8", "replace")
        else:
            answer = call, ENDED_EARLY.type, ENDED_EARLY.message
        self.answers.append(answer)
        self.ends.append(end)
        return raw.cpu_s

    def _stops(self, failed: list[Failed], used_s: float) -> bool:
        fresh = [self._failure(*one) for one in failed[len(self.failures) :]]
        self.failures += fresh
        if not fresh:
            return self.stopping.after(Verdict.PASSED, used_s)
        stops = False
        for report in fresh:
            stops = self.stopping.after(report.verdict, used_s / len(fresh)) or stops
        return stops

    def _failure(self, how: str, what: str, index: int) -> TestReport:
        call, _, output = self.answers[index] if index >= 0 else (None, "", "")
        shown = _shown(call) if call is not None else None
        if how == "raised":
            return replace(self.ends[index] or TestReport(Verdict.RUNTIME_ERROR, error=ENDED_EARLY), input=shown)
        if how == "broken":
            name, _, message = what.partition(": ")
            return TestReport(Verdict.RUNTIME_ERROR, shown, error=ProgramError(name, message))
        return TestReport(Verdict.WRONG_ANSWER, shown, output, what or None)


def _shown(call: str) -> str:
    """The arguments as one would write them; `call` comes from the tests' sandbox."""
    arguments, keywords = ast.literal_eval(call)
    return ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in keywords.items())])
