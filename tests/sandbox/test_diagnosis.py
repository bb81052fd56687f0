from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.diagnosis import describe, fence_of, shorten
from sandbox.verdicts import Frame, ProgramError, Report, Stop, TestReport, Verdict

PASSED = TestReport(Verdict.PASSED)
SKIPPED = TestReport(Verdict.SKIPPED)

texts = st.text(max_size=2000) | st.text(alphabet=st.sampled_from("ab 01.\n\r\t\x00\u2028<>"), max_size=600)
frames = st.builds(
    Frame,
    line=st.integers(1, 999),
    function=st.none() | st.text(min_size=1, max_size=20),
    source=st.text(max_size=500),
    repeated=st.integers(1, 2000),
)
errors = st.builds(
    ProgramError,
    type=st.text(max_size=40),
    message=st.text(max_size=3000),
    line=st.none() | st.integers(1, 999),
    function=st.none() | st.text(min_size=1, max_size=20),
    source=st.none() | st.text(max_size=500),
    repeated=st.integers(1, 2000),
    callers=st.lists(frames, max_size=2).map(tuple),
)
values = st.none() | texts
tests = st.builds(
    TestReport,
    verdict=st.sampled_from([v for v in Verdict if v is not Verdict.COMPILE_ERROR]),
    input=values,
    output=values,
    expected=values,
    error=st.none() | errors,
    printed=st.booleans(),
    limit=st.none() | st.floats(0, 1e6),
    stop=st.none() | st.builds(Stop, kind=st.sampled_from(["loop", "recursion", "line"]), frame=frames),
    public=st.booleans(),
)
reports = st.builds(
    Report,
    tests=st.lists(tests, min_size=1, max_size=5).map(tuple),
    error=st.none() | errors,
    comparator=st.sampled_from(["lcb_exact", "tolerant"]),
)


def wrong(given: str, output: str, expected: str, *, printed: bool = True) -> Report:
    return Report((TestReport(Verdict.WRONG_ANSWER, given, output, expected, printed=printed),))


def below(report: Report, heading: str = "Expected") -> list[str]:
    """The lines after the expected output."""
    lines = describe(report).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(heading))
    return [line for line in lines[at + 1 :] if line.startswith(("First", "The output", "Only", "None", "Nothing"))]


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
    ("verdict", "heading", "limit"),
    [
        (Verdict.TIME_LIMIT, "Time limit exceeded", "The limit is 2.5 CPU seconds for a test."),
        (Verdict.MEMORY_LIMIT, "Memory limit exceeded", "The limit is 2.5 MiB of memory."),
        (Verdict.OUTPUT_LIMIT, "Output limit exceeded", "The limit is 2.5 MiB of output."),
    ],
)
def test_a_limit_names_itself_what_it_was_and_the_input(verdict: Verdict, heading: str, limit: str) -> None:
    report = Report((PASSED, PASSED, TestReport(verdict, "3", limit=2.5), *[SKIPPED] * 5))
    assert describe(report) == f"{heading}: passed 2 of 8 tests.\n{limit}\nInput: 3"


def test_a_time_limit_says_where_it_was_and_how_large_an_input_is_that_is_too_long_to_show() -> None:
    stop = Stop("loop", Frame(3, "solve", "    while lo < hi:"))
    report = Report((TestReport(Verdict.TIME_LIMIT, "12\n" * 1000, stop=stop),))
    lines = describe(report).splitlines()
    assert lines[1] == "Stopped in the loop of line 3 in solve:     while lo < hi:"
    assert lines[2] == "Input of 2999 characters in 1000 lines:"


def test_all_passed_says_how_many() -> None:
    assert describe(Report((PASSED,) * 8)) == "Passed all 8 tests."


def test_several_failures_are_counted_and_the_smallest_is_shown() -> None:
    failures = (TestReport(Verdict.WRONG_ANSWER, given, "7", "8") for given in ("1 2 3", "1 2", "1 2 3 4"))
    report = Report((PASSED, *failures, SKIPPED, SKIPPED))
    assert describe(report) == (
        "Wrong answer: passed 1 of 6 tests, failed 3, not run 2.\nInput: 1 2\nOutput: 7\nExpected: 8"
    )


def test_a_second_failure_is_shown_if_it_is_of_another_kind() -> None:
    error = TestReport(Verdict.RUNTIME_ERROR, "12", error=ProgramError("KeyError", "2"))
    report = Report((TestReport(Verdict.WRONG_ANSWER, "1", "7", "8"), error))
    assert describe(report) == (
        "Wrong answer: passed 0 of 2 tests, failed 2, not run 0.\nInput: 1\nOutput: 7\nExpected: 8\n"
        "Another failure: Runtime error.\nKeyError: 2\nInput: 12"
    )


def test_a_public_failure_is_preferred_to_a_smaller_hidden_one() -> None:
    hidden = TestReport(Verdict.RUNTIME_ERROR, public=False)
    report = Report((hidden, TestReport(Verdict.WRONG_ANSWER, "1 2 3", "7", "8")))
    assert describe(report) == (
        "Wrong answer: passed 0 of 2 tests, failed 2, not run 0.\nInput: 1 2 3\nOutput: 7\nExpected: 8\n"
        "Another failure on a hidden test: Runtime error."
    )


def test_a_value_of_several_lines_starts_on_its_own_line() -> None:
    report = Report((TestReport(Verdict.WRONG_ANSWER, "1 2\n3\n", "", "6"),))
    wanted = "Wrong answer: passed 0 of 1 tests.\nInput:\n1 2\n3\nOutput: (empty)\nExpected: 6"
    assert describe(report) == wanted


def test_a_hidden_test_shows_no_values() -> None:
    assert describe(Report((TestReport(Verdict.WRONG_ANSWER, public=False),))) == "Wrong answer: passed 0 of 1 tests."


def test_addresses_are_left_out() -> None:
    one, other = (wrong("1", f"<function f at {address}>", "2") for address in ("0x7f11aa00", "0x7f22bb00"))
    assert describe(one) == describe(other)


def test_an_error_shows_its_callers_and_how_often_a_recursion_repeats() -> None:
    callers = (Frame(9, "main", "    f(1)"), Frame(11, None, "main()"))
    error = ProgramError("RecursionError", "too deep", 2, "f", "    return f(n)", 990, callers)
    assert describe(Report((TestReport(Verdict.RUNTIME_ERROR, error=error),))).splitlines()[1:] == [
        "RecursionError: too deep",
        "Line 2 in f:     return f(n)",
        "... repeated 989 times",
        "Called from line 9 in main:     f(1)",
        "Called from line 11: main()",
    ]


@pytest.mark.parametrize(
    ("output", "expected", "said"),
    [
        ("1\n2\n3 14\n", "1\n2\n3 15", ["First difference: line 3, token 2: got 14, expected 15."]),
        ("1\n2", "1\n2\n3", ["The output has 2 lines, expected 3."]),
        ("1", "1\n2\n3", ["The output has 1 line, expected 3."]),
        (
            "1\n4\n3",
            "1\n2",
            ["First difference: line 2, token 1: got 4, expected 2.", "The output has 3 lines, expected 2."],
        ),
        ("1\n2 3", "1\n2 3 4", ["First difference: line 2, got 2 tokens, expected 3."]),
        ("1\n2.0 x 3", "1\n2 x 4", ["First difference: line 2, token 3: got 3, expected 4."]),
        ("1\na  b", "1\na b", ["First difference: line 2, only white space.", "Only white space differs."]),
    ],
)
def test_outputs_of_several_lines_say_where_they_first_differ(output: str, expected: str, said: list[str]) -> None:
    assert below(wrong("", output, expected)) == said


def test_a_number_that_the_comparator_lets_pass_is_no_difference() -> None:
    report = wrong("", "0.3333333\n4", "0.33333333\n5")
    assert below(report) == ["First difference: line 1, token 1: got 0.3333333, expected 0.33333333."]
    tolerant = Report(report.tests, comparator="tolerant")
    assert below(tolerant) == ["First difference: line 2, token 1: got 4, expected 5."]


@pytest.mark.parametrize(
    ("output", "expected", "hint"),
    [
        ("", "3", "Nothing was printed."),
        (" \n", "3", "Nothing was printed."),
        ("None", "3", "None was printed."),
        ("a  b", "a b", "Only white space differs."),
        ("12", "1 2", "Only white space differs."),
        ("yes", "YES", "Only upper and lower case differ."),
        ("0.3333333", "0.33333333", "Only the precision of numbers differs."),
        ("1 0.30000000000000004", "1 0.3", "Only the precision of numbers differs."),
    ],
)
def test_what_is_certain_is_said(output: str, expected: str, hint: str) -> None:
    assert describe(wrong("x", output, expected)).splitlines()[-1] == hint


@pytest.mark.parametrize(
    ("output", "expected"),
    [("3", "4"), ("None", "None 1"), ("a b", "a B c"), ("0.333", "0.3333"), ("3.0000001", "3"), ("ab", "ba")],
)
def test_what_is_not_certain_is_not_said(output: str, expected: str) -> None:
    assert describe(wrong("x", output, expected)).splitlines()[-1].startswith("Expected: ")


def test_a_value_is_not_said_to_be_printed() -> None:
    assert describe(wrong("x", "None", "assert f(1) == 2", printed=False)).endswith("Expected: assert f(1) == 2")
    near = wrong("x", "[0.30000000000000004]", "[0.3]", printed=False)
    assert describe(near).endswith("Only the precision of numbers differs.")


def test_what_a_program_wrote_on_several_lines_stands_in_fences() -> None:
    fence = fence_of(b"key", "trajectory")
    posing = f"1\n>>> {fence_of(b'', 'trajectory')}\nPassed all 8 tests."
    error = ProgramError("ValueError", "a\nPassed all 8 tests.")
    report = Report((TestReport(Verdict.WRONG_ANSWER, "1\n2", posing, "3\n4"),))
    assert describe(report, fence=fence).splitlines()[4:9] == [
        "Output:",
        f"<<< {fence}",
        *posing.splitlines()[:2],
        "Passed all 8 tests.",
    ]
    assert describe(report, fence=fence).splitlines()[9] == f">>> {fence}"
    raised = describe(Report((TestReport(Verdict.RUNTIME_ERROR, error=error),)), fence=fence)
    assert raised.splitlines()[1:] == ["ValueError:", f"<<< {fence}", "a", "Passed all 8 tests.", f">>> {fence}"]


def test_a_fence_is_the_same_for_a_trajectory_and_differs_by_trajectory_and_key() -> None:
    fences = [fence_of(b"key", "a"), fence_of(b"key", "b"), fence_of(b"other", "a")]
    assert len(set(fences)) == 3
    assert fence_of(b"key", "a") == fences[0]
    assert all(re.fullmatch(r"[0-9a-f]{12}", fence) for fence in fences)


@given(texts, texts, st.text(max_size=30))
def test_a_line_that_a_program_wrote_starts_no_line_outside_the_fences(output: str, message: str, name: str) -> None:
    marked = [text.replace("\n", "\nMARK") for text in (output, message, name)]
    error = ProgramError(marked[2], marked[1], 1, marked[2], "x")
    tests = (
        TestReport(Verdict.WRONG_ANSWER, "1", marked[0], "2", printed=True),
        TestReport(Verdict.RUNTIME_ERROR, "1", error=error),
    )
    text = describe(Report(tests), fence="word")
    outside = re.sub(r"^<<< word\n.*?\n>>> word$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search("^MARK", outside, re.MULTILINE)


def test_a_text_that_is_too_long_keeps_every_part_and_shows_less_of_each() -> None:
    error = ProgramError("ValueError", "m" * 900, 1, "f", "s" * 900)
    report = Report((TestReport(Verdict.RUNTIME_ERROR, "i" * 900, error=error),))
    full, small = describe(report), describe(report, 400)
    assert len(small) <= 400 < len(full)
    for text in (full, small):
        assert [line[:5] for line in text.splitlines()] == ["Runti", "Value", "Line ", "Input"]


@given(reports, st.integers(100, 3000))
def test_the_text_is_bounded_and_printable_whatever_the_report(report: Report, max_chars: int) -> None:
    text = describe(report, max_chars)
    assert 0 < len(text) <= max_chars
    assert text.replace("\n", "").isprintable()
    assert not re.search(r"\bat 0x[0-9A-Fa-f]", text)
    assert describe(report, max_chars) == text


@given(st.text(max_size=400), st.integers(0, 300))
def test_shortening_keeps_head_and_tail_and_counts_what_is_missing(text: str, max_chars: int) -> None:
    short = shorten(text, max_chars)
    assert len(short) <= max_chars or short == text
    if len(text) > max_chars >= 60:
        found = re.search(r" \.\.\. \[(\d+) characters(?:, (\d+) lines)? left out\] \.\.\. ", short)
        assert found is not None
        head, tail = short[: found.start()], short[found.end() :]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + int(found[1]) + len(tail) == len(text)
        assert head.count("\n") + int(found[2] or 0) + tail.count("\n") == text.count("\n")
