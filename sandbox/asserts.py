"""`code.assert`: two sandboxes and a messenger between them. The test code asks, the candidate answers.

Neither sees the other: see `inside/asserting.py`. Answers are text of Python literals on the whole way; nothing the
candidate sends is decoded here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from sandbox.confined import Confined, DriverDied, Raw, Refused
from sandbox.inside import candidate, driver
from sandbox.judge import decode_error, failure_of
from sandbox.reference import CodeTask
from sandbox.verdicts import ProgramError, Report, TestReport, Verdict
from shared.errors import DataError

MAX_CALLS = 1000
OpenSandbox = Callable[[str, str, str], Confined]
Answer = tuple[str, str, str]


def judge_asserts(open_sandbox: OpenSandbox, task: CodeTask, source: str) -> Report:
    """The report on `source`: one test for each assertion. Raises DataError if the test code is wrong."""
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
            return _converse(program, tests, source)
        finally:
            tests.__exit__(None, None, None)


def _converse(program: Confined, tests: Confined, source: str) -> Report:
    answers: list[Answer] = []
    last: Raw | None = None
    while True:
        kind, state = _ask(tests, answers)
        if kind == "done":
            return _final(state, answers, last, source)
        passed, total, call = state
        if len(answers) == MAX_CALLS:
            raise DataError(f"reference.test_code makes more than {MAX_CALLS} calls.", field="reference.test_code")
        last = program.test(call)
        failure = failure_of(last, source)
        if failure is not None and last.tag != candidate.ERROR:
            return _report(passed, total, TestReport(failure[0], _shown(call), error=failure[1]))
        answers.append(_answer(call, last, source))


def _ask(tests: Confined, answers: list[Answer]) -> tuple[str, Any]:
    try:
        raw = tests.test(answers)
    except DriverDied as error:
        raise DataError("reference.test_code brought down its sandbox.", field="reference.test_code") from error
    if raw.ended != driver.BY_ITSELF or raw.tag not in (candidate.VALUE, candidate.NEEDS):
        why = decode_error(raw.payload, "").message if raw.tag == candidate.ERROR else "it passed a limit"
        raise DataError(f"reference.test_code failed: {why}.", field="reference.test_code")
    state = ast.literal_eval(raw.payload.decode("utf-8", "surrogatepass"))
    return ("needs" if raw.tag == candidate.NEEDS else "done"), state


def _answer(call: str, raw: Raw, source: str) -> Answer:
    if raw.tag == candidate.VALUE:
        return call, "value", raw.payload.decode("utf-8", "replace")
    if raw.tag == candidate.ERROR:
        error = decode_error(raw.payload, source)
        return call, error.type, error.message
    return call, "SystemExit", "the program ended before it returned a value"


def _final(state: tuple[int, int, str, str], answers: list[Answer], last: Raw | None, source: str) -> Report:
    passed, total, how, what = state
    call, kind, output = answers[-1] if answers else (None, "", "")
    shown = _shown(call) if call is not None else None
    if how == "passed":
        return _report(total, total, None)
    if how == "raised":
        assert last is not None
        failure = failure_of(last, source)
        verdict, error = failure or (Verdict.RUNTIME_ERROR, ProgramError(kind, output))
        return _report(passed, total, TestReport(verdict, shown, error=error))
    if how == "broken":
        name, _, message = what.partition(": ")
        return _report(passed, total, TestReport(Verdict.RUNTIME_ERROR, shown, error=ProgramError(name, message)))
    return _report(passed, total, TestReport(Verdict.WRONG_ANSWER, shown, output, what or None))


def _report(passed: int, total: int, failed: TestReport | None) -> Report:
    tests = [TestReport(Verdict.PASSED)] * passed + ([failed] if failed else [])
    return Report((*tests, *[TestReport(Verdict.SKIPPED)] * (total - len(tests))))


def _shown(call: str) -> str:
    """The arguments as one would write them; `call` comes from the tests' sandbox."""
    arguments, keywords = ast.literal_eval(call)
    return ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in keywords.items())])
