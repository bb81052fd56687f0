"""What judging a program can come to. Types only: running is in `judge.py`, wording in `diagnosis.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

ComparatorName = Literal["lcb_exact", "tolerant"]
RewardRule = Literal["all", "fraction"]


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
    """Not run, because earlier tests failed. Never counted as passed."""


@dataclass(frozen=True)
class Frame:
    """A place in the candidate's own code: `line` (1-based), the function around it (None at top level), the line's
    text. `repeated` counts the calls in a row that stood there: more than 1 in a recursion."""

    line: int
    function: str | None = None
    source: str = ""
    repeated: int = 1


@dataclass(frozen=True)
class ProgramError:
    """What a program raised. `line` (1-based), `function` and `source` point into the candidate's own code, never
    into a support file; they are None where the error has no place there. `repeated` is as in `Frame`; `callers` are
    the own frames that led there, the innermost first."""

    type: str
    message: str = ""
    line: int | None = None
    function: str | None = None
    source: str | None = None
    repeated: int = 1
    callers: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Where a program was when its time was up: in the loop that starts at `frame`, in the function there that calls
    itself, or at that line."""

    kind: Literal["loop", "recursion", "line"]
    frame: Frame


@dataclass(frozen=True)
class TestReport:
    """One test: what went in, what came out. `input`, `output` and `expected` are None where there is nothing to
    show (a hidden test, a program that died before it answered). `printed` says that `output` is what the program
    wrote and not a value it returned. `limit` is the limit that was passed: CPU seconds for `time_limit`, MiB for
    `memory_limit` and `output_limit`; None where none was, or none is known. A report on a test that is not `public`
    has nothing but its verdict."""

    __test__ = False

    verdict: Verdict
    input: str | None = None
    output: str | None = None
    expected: str | None = None
    error: ProgramError | None = None
    printed: bool = False
    limit: float | None = None
    stop: Stop | None = None
    public: bool = True


@dataclass(frozen=True)
class Report:
    """All tests of one program, in order. `error` is set when the program does not compile: then every test is
    `compile_error`. `comparator` is the one outputs were compared by, `reward_rule` how the reward is counted."""

    tests: tuple[TestReport, ...]
    error: ProgramError | None = None
    comparator: ComparatorName = "lcb_exact"
    reward_rule: RewardRule = "all"

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(test.verdict is Verdict.PASSED for test in self.tests)

    @property
    def skipped(self) -> int:
        """How many tests were not run."""
        return sum(test.verdict is Verdict.SKIPPED for test in self.tests)

    @property
    def success(self) -> bool:
        """Whether there are tests and all of them passed."""
        return bool(self.tests) and self.passed == len(self.tests)

    @property
    def reward(self) -> float:
        """1.0 if all tests passed, else 0.0; by the rule `fraction`, the share of tests that passed."""
        if self.reward_rule == "fraction" and self.tests:
            return self.passed / len(self.tests)
        return 1.0 if self.success else 0.0

    @property
    def failures(self) -> tuple[TestReport, ...]:
        """The tests that ran and did not pass, in order."""
        return tuple(t for t in self.tests if t.verdict not in (Verdict.PASSED, Verdict.SKIPPED))
