from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.diagnosis import describe, shorten
from sandbox.verdicts import ProgramError, Report, TestReport, Verdict

PASSED = TestReport(Verdict.PASSED)
SKIPPED = TestReport(Verdict.SKIPPED)

errors = st.builds(
    ProgramError,
    type=st.text(max_size=40),
    message=st.text(max_size=3000),
    line=st.none() | st.integers(1, 999),
    function=st.none() | st.text(min_size=1, max_size=20),
    source=st.none() | st.text(max_size=500),
)
values = st.none() | st.text(max_size=2000)
tests = st.builds(
    TestReport,
    verdict=st.sampled_from([v for v in Verdict if v is not Verdict.COMPILE_ERROR]),
    input=values,
    output=values,
    expected=values,
    error=st.none() | errors,
)
reports = st.builds(Report, tests=st.lists(tests, min_size=1, max_size=5).map(tuple), error=st.none() | errors)


def test_a_runtime_error_names_the_error_the_line_and_the_input() -> None:
    message = "module 'lib' has no attribute 'add', it was renamed to 'plus'"
    error = ProgramError("AttributeError", message, 4, "solve", "    x = lib.add(x, 3)")
    report = Report((TestReport(Verdict.RUNTIME_ERROR, "3", error=error), *[SKIPPED] * 7))
    assert describe(report) == (
        "Runtime error: passed 0 of 8 tests.\n"
        "AttributeError: module 'lib' has no attribute 'add', it was renamed to 'plus'\n"
        "Line 4 in solve:     x = lib.add(x, 3)\n"
        "Input: 3"
    )


def test_a_wrong_answer_shows_input_output_and_expected() -> None:
    report = Report((*[PASSED] * 3, TestReport(Verdict.WRONG_ANSWER, "3", "7", "12"), *[SKIPPED] * 4))
    assert describe(report) == "Wrong answer: passed 3 of 8 tests.\nInput: 3\nOutput: 7\nExpected: 12"


def test_a_compile_error_says_that_no_test_was_run() -> None:
    error = ProgramError("SyntaxError", "invalid syntax", 4, None, "    x = lib.(x, 3)")
    report = Report((TestReport(Verdict.COMPILE_ERROR),) * 8, error)
    wanted = "Compile error: no test was run.\nSyntaxError: invalid syntax\nLine 4:     x = lib.(x, 3)"
    assert describe(report) == wanted


@pytest.mark.parametrize(
    ("verdict", "heading"),
    [
        (Verdict.TIME_LIMIT, "Time limit exceeded"),
        (Verdict.MEMORY_LIMIT, "Memory limit exceeded"),
        (Verdict.OUTPUT_LIMIT, "Output limit exceeded"),
    ],
)
def test_a_limit_names_itself_and_the_input(verdict: Verdict, heading: str) -> None:
    report = Report((PASSED, PASSED, TestReport(verdict, "3"), *[SKIPPED] * 5))
    assert describe(report) == f"{heading}: passed 2 of 8 tests.\nInput: 3"


def test_all_passed_says_how_many() -> None:
    assert describe(Report((PASSED,) * 8)) == "Passed all 8 tests."


def test_a_value_of_several_lines_starts_on_its_own_line() -> None:
    report = Report((TestReport(Verdict.WRONG_ANSWER, "1 2\n3\n", "", "6"),))
    wanted = "Wrong answer: passed 0 of 1 tests.\nInput:\n1 2\n3\nOutput: (empty)\nExpected: 6"
    assert describe(report) == wanted


def test_a_hidden_test_shows_no_values() -> None:
    assert describe(Report((TestReport(Verdict.WRONG_ANSWER),))) == "Wrong answer: passed 0 of 1 tests."


def test_addresses_are_left_out() -> None:
    one, other = (
        Report((TestReport(Verdict.WRONG_ANSWER, "1", f"<function f at {address}>", "2"),))
        for address in ("0x7f11aa00", "0x7f22bb00")
    )
    assert describe(one) == describe(other)


@given(reports, st.integers(100, 3000))
def test_the_text_is_bounded_and_printable_whatever_the_report(report: Report, max_chars: int) -> None:
    text = describe(report, max_chars)
    assert 0 < len(text) <= max_chars
    assert text.replace("\n", "").isprintable()


@given(st.text(max_size=400), st.integers(0, 300))
def test_shortening_keeps_head_and_tail_within_the_limit(text: str, max_chars: int) -> None:
    short = shorten(text, max_chars)
    assert len(short) <= max_chars or short == text
    if len(text) > max_chars >= 60:
        assert short[0] == text[0]
        assert short[-1] == text[-1]
        assert "characters left out" in short
