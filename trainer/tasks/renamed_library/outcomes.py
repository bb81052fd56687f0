"""Exactly what running a program of the world on its tests would say, found without running anything.

Like the sandbox, it stops at the first test that fails. Pre-training needs hundreds of thousands of such texts; the
tests hold them equal to the sandbox's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.diagnosis import describe
from sandbox.verdicts import ProgramError, Report, TestReport, Verdict
from trainer.tasks import outcome
from trainer.tasks.renamed_library.library import Library
from trainer.tasks.renamed_library.programs import FIRST_CALL_LINE, Call

Test = tuple[int, int]
"""Input and expected output."""


@dataclass(frozen=True)
class Outcome(outcome.Outcome):
    """What the tests said. Where a call to a renamed function raised, `failed_call` is its index and `new_name`
    what the error called it."""

    text: str
    failed_call: int | None = None
    new_name: str | None = None


def judge(calls: Sequence[Call], library: Library, tests: Sequence[Test]) -> Outcome:
    """The outcome of the program made of `calls` (names need not exist, nor even be there)."""
    broken = next((i for i, call in enumerate(calls) if not call.name), None)
    if broken is not None:
        return _outcome(_compile_report(calls, broken, len(tests)))
    missing = next((i for i, call in enumerate(calls) if call.name not in library.by_name), None)
    if missing is not None:
        report = _raising_report(calls, missing, library, tests)
        return _outcome(report, missing, library.renamed.get(calls[missing].name))
    return _outcome(_compared_report(calls, library, tests))


def evaluate(calls: Sequence[Call], library: Library, x: int) -> int:
    """What the program returns for `x`; every name must exist."""
    for call in calls:
        x = library.by_name[call.name].apply(x, call.constant)
    return x


def _outcome(report: Report, failed_call: int | None = None, new_name: str | None = None) -> Outcome:
    return Outcome(report.success, describe(report), failed_call, new_name)


def _compared_report(calls: Sequence[Call], library: Library, tests: Sequence[Test]) -> Report:
    done: list[TestReport] = []
    for x, want in tests:
        output = evaluate(calls, library, x)
        if output != want:
            done.append(TestReport(Verdict.WRONG_ANSWER, str(x), str(output), str(want)))
            break
        done.append(TestReport(Verdict.PASSED))
    return Report((*done, *_skipped(len(tests) - len(done))))


def _raising_report(calls: Sequence[Call], index: int, library: Library, tests: Sequence[Test]) -> Report:
    message = library.missing(calls[index].name)
    error = ProgramError("AttributeError", message, FIRST_CALL_LINE + index, "solve", calls[index].line)
    failed = TestReport(Verdict.RUNTIME_ERROR, str(tests[0][0]), error=error)
    return Report((failed, *_skipped(len(tests) - 1)))


def _skipped(count: int) -> tuple[TestReport, ...]:
    return (TestReport(Verdict.SKIPPED),) * count


def _compile_report(calls: Sequence[Call], index: int, tests: int) -> Report:
    error = ProgramError("SyntaxError", "invalid syntax", FIRST_CALL_LINE + index, None, calls[index].line)
    return Report((TestReport(Verdict.COMPILE_ERROR),) * tests, error)
