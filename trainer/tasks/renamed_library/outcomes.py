"""Exactly what running a program of the world on its tests would say, found without running anything.

Pre-training needs hundreds of thousands of such texts; the tests hold them equal to the code-feedback service's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.diagnosis import describe
from sandbox.verdicts import ProgramError, Report, TestReport, Verdict
from trainer.tasks.renamed_library.library import Library
from trainer.tasks.renamed_library.programs import FIRST_CALL_LINE, Call

Test = tuple[int, int]
"""Input and expected output."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said. Where a call to a renamed function raised, `failed_call` is its index and `new_name`
    what the error called it."""

    success: bool
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
    return _outcome(Report(tuple(_compared(evaluate(calls, library, x), x, want) for x, want in tests)))


def evaluate(calls: Sequence[Call], library: Library, x: int) -> int:
    """What the program returns for `x`; every name must exist."""
    for call in calls:
        x = library.by_name[call.name].apply(x, call.constant)
    return x


def _outcome(report: Report, failed_call: int | None = None, new_name: str | None = None) -> Outcome:
    return Outcome(report.success, describe(report), failed_call, new_name)


def _compared(output: int, x: int, want: int) -> TestReport:
    verdict = Verdict.PASSED if output == want else Verdict.WRONG_ANSWER
    return TestReport(verdict, str(x), str(output), str(want))


def _raising_report(calls: Sequence[Call], index: int, library: Library, tests: Sequence[Test]) -> Report:
    error = ProgramError(
        "AttributeError", library.missing(calls[index].name), FIRST_CALL_LINE + index, "solve", calls[index].line
    )
    return Report(tuple(TestReport(Verdict.RUNTIME_ERROR, str(x), None, str(want), error) for x, want in tests))


def _compile_report(calls: Sequence[Call], index: int, tests: int) -> Report:
    error = ProgramError("SyntaxError", "invalid syntax", FIRST_CALL_LINE + index, None, calls[index].line)
    return Report((TestReport(Verdict.COMPILE_ERROR),) * tests, error)
