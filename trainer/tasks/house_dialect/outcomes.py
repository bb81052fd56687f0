"""Exactly what running a program of the world on its tests would say, found without running anything.

Like the sandbox, it stops at the first test that fails. Pre-training needs hundreds of thousands of such texts; the
tests hold them equal to the sandbox's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.diagnosis import describe
from sandbox.verdicts import Report, TestReport, Verdict
from trainer.tasks import outcome
from trainer.tasks.house_dialect.programs import Line, values

Test = tuple[int, int, int]
"""Input: a number, and which step (1-based) is applied to it; and the expected value."""


@dataclass(frozen=True)
class Outcome(outcome.Outcome):
    """What the tests said. `diverges_at` is the index of the line whose value was wrong first; None for a success."""

    text: str
    diverges_at: int | None = None


def judge(lines: Sequence[Line], tests: Sequence[Test]) -> Outcome:
    """The outcome of the program made of `lines`, at least as many as the steps that are asked about."""
    done: list[TestReport] = []
    diverges_at = None
    for x, step, expected in tests:
        output = values(lines, x)[step - 1]
        if output != expected:
            done.append(TestReport(Verdict.WRONG_ANSWER, f"{x}\n{step}", str(output), str(expected)))
            diverges_at = step - 1
            break
        done.append(TestReport(Verdict.PASSED))
    skipped = (TestReport(Verdict.SKIPPED),) * (len(tests) - len(done))
    report = Report((*done, *skipped))
    return Outcome(report.success, describe(report), diverges_at)
