"""The corpus's vocabulary: a program, the task it answers, and the verdict that is known to be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import Report, Verdict

PASSED = Verdict.PASSED
WRONG = Verdict.WRONG_ANSWER
RAISES = Verdict.RUNTIME_ERROR
SLOW = Verdict.TIME_LIMIT
BIG = Verdict.MEMORY_LIMIT
LONG = Verdict.OUTPUT_LIMIT
BROKEN = Verdict.COMPILE_ERROR

Programs = Sequence[tuple[Verdict, str]]
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """`verdict` is that of the first test that fails, or `passed` if none does."""

    name: str
    task: CodeTask
    program: str
    verdict: Verdict


def verdict_of(report: Report) -> Verdict:
    """What a report comes to, in one verdict."""
    return report.failures[0].verdict if report.failures else Verdict.PASSED


def stdin(*pairs: tuple[str, str], **more: Any) -> CodeTask:
    """A `code.stdin` task with (input, output) tests."""
    return parse_task("code.stdin", {"tests": _tests(pairs), **more})


def calls(fn_name: str, *pairs: tuple[str, str], **more: Any) -> CodeTask:
    """A `code.functional` task with (arguments, value) tests."""
    return parse_task("code.functional", {"tests": _tests(pairs), "fn_name": fn_name, **more})


def asserts(entry_point: str, test_code: str, **more: Any) -> CodeTask:
    """A `code.assert` task."""
    reference = {"test_code": dedent(test_code), "entry_point": entry_point, **more}
    return parse_task("code.assert", reference)


def cases(name: str, task: CodeTask, programs: Programs) -> Iterator[Case]:
    """A case for each program of a task."""
    for number, (verdict, program) in enumerate(programs):
        yield Case(f"{name}-{number}-{verdict}", task, dedent(program).lstrip("\n"), verdict)


def crossed(name: str, task: CodeTask, parts: Mapping[str, str], bodies: Programs) -> Iterator[Case]:
    """A case for each body after each part: the same work behind every way to read, or before every way to write."""
    for number, (verdict, body) in enumerate(bodies):
        for part, text in parts.items():
            program = dedent(body).strip("\n").replace("PART", dedent(text).strip("\n"))
            yield Case(f"{name}-{part}-{number}-{verdict}", task, program + "\n", verdict)


def _tests(pairs: Pairs) -> list[dict[str, str]]:
    return [{"input": given, "output": wanted} for given, wanted in pairs]
