"""What judging a program can come to. Types only: running is in `judge.py`, wording in `diagnosis.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of one test."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    """It ran to its end, and the output is not the expected one."""
    RUNTIME_ERROR = "runtime_error"
    """It raised, exited with an error, or died."""
    TIME_LIMIT = "time_limit"
    """It used more CPU seconds than allowed, or sat idle until the wall-clock backstop."""
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than we keep."""
    COMPILE_ERROR = "compile_error"
    """The program does not compile; no test was run."""
    SKIPPED = "skipped"
    """Not run, because an earlier test failed. Never counted as passed."""


@dataclass(frozen=True)
class ProgramError:
    """What a program raised. `line` (1-based), `function` and `source` point into the candidate's own code, never
    into a support file; they are None where the error has no place there."""

    type: str
    message: str = ""
    line: int | None = None
    function: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class TestReport:
    """One test: what went in, what came out. `input`, `output` and `expected` are None where there is nothing to
    show (a hidden test, a program that died before it answered)."""

    __test__ = False

    verdict: Verdict
    input: str | None = None
    output: str | None = None
    expected: str | None = None
    error: ProgramError | None = None


@dataclass(frozen=True)
class Report:
    """All tests of one program, in order. `error` is set when the program does not compile: then every test is
    `compile_error`."""

    tests: tuple[TestReport, ...]
    error: ProgramError | None = None

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(test.verdict is Verdict.PASSED for test in self.tests)

    @property
    def success(self) -> bool:
        """Whether there are tests and all of them passed."""
        return bool(self.tests) and self.passed == len(self.tests)

    @property
    def reward(self) -> float:
        """1.0 if all tests passed, else 0.0."""
        return 1.0 if self.success else 0.0

    @property
    def first_failure(self) -> TestReport | None:
        """The first test that ran and did not pass."""
        failed = (t for t in self.tests if t.verdict not in (Verdict.PASSED, Verdict.SKIPPED))
        return next(failed, None)
