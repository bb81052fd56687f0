"""The words a report becomes: pure text, the same for the same report, no running and no judging.

The built-in world's model was pre-trained on exactly these texts, so a change here is a change of that world.
Nothing that differs between two runs of the same program gets in: no timings, no addresses, no paths.
"""

from __future__ import annotations

import re

from sandbox.verdicts import ProgramError, Report, TestReport, Verdict

MAX_VALUE_CHARS = 250
MAX_MESSAGE_CHARS = 500

HEADINGS = {
    Verdict.WRONG_ANSWER: "Wrong answer",
    Verdict.RUNTIME_ERROR: "Runtime error",
    Verdict.TIME_LIMIT: "Time limit exceeded",
    Verdict.MEMORY_LIMIT: "Memory limit exceeded",
    Verdict.OUTPUT_LIMIT: "Output limit exceeded",
}


def describe(report: Report, max_chars: int = 2000) -> str:
    """What a report says to the one who wrote the program, in at most `max_chars` characters."""
    return shorten("\n".join(_lines(report)), max_chars)


def shorten(text: str, max_chars: int) -> str:
    """`text`, or its head and tail around a note of how many characters are missing, in at most `max_chars`."""
    if len(text) <= max_chars:
        return text
    note = f" ... [{len(text) - max_chars} characters left out] ... "
    kept = max_chars - len(note)
    if kept < 2:
        return text[:max_chars]
    head = (kept + 1) // 2
    return text[:head] + note + text[len(text) - (kept - head) :]


def _lines(report: Report) -> list[str]:
    if report.error is not None:
        return ["Compile error: no test was run.", *_error_lines(report.error)]
    failure = report.first_failure
    if failure is None:
        return [f"Passed all {len(report.tests)} tests."]
    heading = HEADINGS.get(failure.verdict, "Failed")
    lines = [f"{heading}: passed {report.passed} of {len(report.tests)} tests."]
    if failure.error is not None:
        lines += _error_lines(failure.error)
    return lines + _value_lines(failure)


def _error_lines(error: ProgramError) -> list[str]:
    message = shorten(_clean(error.message), MAX_MESSAGE_CHARS)
    lines = [f"{_clean(error.type)}: {message}" if message else _clean(error.type)]
    if error.line is not None:
        place = f"Line {error.line} in {_clean(error.function)}" if error.function else f"Line {error.line}"
        source = shorten(_printable((error.source or "").rstrip().expandtabs(4)), MAX_VALUE_CHARS)
        lines.append(f"{place}: {source}" if source else f"{place}.")
    return lines


def _value_lines(test: TestReport) -> list[str]:
    shown = [("Input", test.input)]
    if test.verdict is Verdict.WRONG_ANSWER:
        shown += [("Output", test.output), ("Expected", test.expected)]
    return [_labelled(label, value) for label, value in shown if value is not None]


def _labelled(label: str, value: str) -> str:
    text = shorten(_clean(value.rstrip()), MAX_VALUE_CHARS)
    if not text:
        return f"{label}: (empty)"
    return f"{label}:\n{text}" if "\n" in text else f"{label}: {text}"


def _clean(text: str) -> str:
    return _printable(_ADDRESS.sub("at 0x...", text))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text.replace("\r\n", "\n"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
