"""The words a report becomes: pure text, the same for the same report, no running and no judging.

The built-in world's model was pre-trained on exactly these texts, so a change here is a change of that world.
Nothing that differs between two runs of the same program gets in: no timings, no addresses, no paths.

What a candidate wrote cannot pose as what is said here: a text of its own stands on the line that says what it is, or,
if it has several lines, between two lines with a word that it cannot know.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from decimal import Decimal, InvalidOperation

from sandbox.compare import COMPARATORS, lines_of, near_line, near_value, same_value
from sandbox.verdicts import Frame, ProgramError, Report, TestReport, Verdict

MAX_VALUE_CHARS = 250
MAX_MESSAGE_CHARS = 500
MAX_TOKEN_CHARS = 60
MAX_HINT_CHARS = 10**6
"""Of longer outputs it is not found out what it is that differs."""
VALUE_SHARES = (1.0, 0.5, 0.25, 0.1)
"""Of the longest values: the largest is taken with which the whole text fits."""

HEADINGS = {
    Verdict.WRONG_ANSWER: "Wrong answer",
    Verdict.RUNTIME_ERROR: "Runtime error",
    Verdict.TIME_LIMIT: "Time limit exceeded",
    Verdict.MEMORY_LIMIT: "Memory limit exceeded",
    Verdict.OUTPUT_LIMIT: "Output limit exceeded",
}
LIMITS = {
    Verdict.TIME_LIMIT: "The limit is {:g} CPU seconds for a test.",
    Verdict.MEMORY_LIMIT: "The limit is {:g} MiB of memory.",
    Verdict.OUTPUT_LIMIT: "The limit is {:g} MiB of output.",
}
STOPS = {
    "loop": "Stopped in the loop of line",
    "recursion": "Stopped in the recursion of line",
    "line": "Stopped at line",
}


def describe(report: Report, max_chars: int = 2000, *, fence: str = "") -> str:
    """What a report says to the one who wrote the program, in at most `max_chars` characters. Texts of the program
    that have several lines stand between lines with `fence`, a word of `fence_of`."""
    for share in VALUE_SHARES:
        lines = _Text(share, fence).lines(report)
        if len(text := "\n".join(lines)) <= max_chars:
            return text
    return shorten(lines[0], max_chars)


def fence_of(key: bytes, trajectory_id: str) -> str:
    """A word for the fences of a trajectory, always the same, that only the holder of `key` can know."""
    return hmac.new(key, trajectory_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def shorten(text: str, max_chars: int) -> str:
    """`text`, or its head and tail around a note of what is missing, in at most `max_chars` characters."""
    if len(text) <= max_chars:
        return text
    kept = max_chars - len(_note(text))
    if kept < 2:
        return text[:max_chars]
    head, end = (kept + 1) // 2, len(text) - kept // 2
    return text[:head] + _note(text[head:end]) + text[end:]


def _cut(text: str, head: int, tail: int) -> str:
    end = len(text) - tail
    return _printable(text[:head]) + _note(text[head:end]) + _printable(text[end:])


def _note(missing: str) -> str:
    lines = missing.count("\n")
    return f" ... [{len(missing)} characters{f', {lines} lines' if lines else ''} left out] ... "


class _Text:
    """The lines of one description; `share` of the longest values is shown."""

    def __init__(self, share: float, fence: str) -> None:
        self.max_value_chars = int(share * MAX_VALUE_CHARS)
        self.max_message_chars = int(share * MAX_MESSAGE_CHARS)
        self.fence = fence

    def lines(self, report: Report) -> list[str]:
        """All that is said of a report, the verdict first."""
        if report.error is not None:
            return ["Compile error: no test was run.", *self._error(report.error)]
        if not report.failures:
            return [f"Passed all {len(report.tests)} tests."]
        shown, *others = _to_show(report.failures)
        lines = [_verdict_line(report, shown), *self._failure(shown, report)]
        for other in others:
            hidden = "" if other.public else " on a hidden test"
            lines += [f"Another failure{hidden}: {_heading(other)}.", *self._failure(other, report)]
        return lines

    def _failure(self, test: TestReport, report: Report) -> list[str]:
        lines = []
        if test.limit is not None and test.verdict in LIMITS:
            lines.append(LIMITS[test.verdict].format(test.limit))
        if test.stop is not None:
            lines.append(self._place(STOPS[test.stop.kind], test.stop.frame))
        if test.error is not None:
            lines += self._error(test.error)
        return lines + self._values(test, report)

    def _error(self, error: ProgramError) -> list[str]:
        lines = [_one_line(error.type)]
        if message := _shown(error.message, self.max_message_chars):
            lines = self._after(lines[0], message, fenced=True)
        if error.line is not None:
            frame = Frame(error.line, error.function, error.source or "", error.repeated)
            lines += self._frame("Line", frame)
        for caller in error.callers:
            lines += self._frame("Called from line", caller)
        return lines

    def _frame(self, label: str, frame: Frame) -> list[str]:
        again = [f"... repeated {frame.repeated - 1} times"] if frame.repeated > 1 else []
        return [self._place(label, frame), *again]

    def _place(self, label: str, frame: Frame) -> str:
        place = f"{label} {frame.line}" + (f" in {_one_line(frame.function)}" if frame.function else "")
        source = shorten(_printable(frame.source.rstrip().expandtabs(4)), self.max_value_chars)
        return f"{place}: {_one_line(source)}" if source else f"{place}."

    def _values(self, test: TestReport, report: Report) -> list[str]:
        lines = []
        if test.input is not None:
            lines += self._labelled(_input_label(test, self.max_value_chars), test.input)
        if test.verdict is Verdict.WRONG_ANSWER:
            if test.output is not None:
                lines += self._labelled("Output", test.output, fenced=True)
            if test.expected is not None:
                lines += self._labelled("Expected", test.expected)
            if test.output is not None and test.expected is not None:
                lines += _comparison(test, test.output, test.expected, report)
        return lines

    def _labelled(self, label: str, value: str, *, fenced: bool = False) -> list[str]:
        text = _shown(value.rstrip(), self.max_value_chars)
        if not text:
            return [f"{label}: (empty)"]
        return self._after(label, text, fenced=fenced)

    def _after(self, label: str, text: str, *, fenced: bool) -> list[str]:
        if "\n" not in text:
            return [f"{label}: {text}"]
        if not fenced:
            return [f"{label}:", text]
        return [f"{label}:", f"<<< {self.fence}".rstrip(), text, f">>> {self.fence}".rstrip()]


def _to_show(failures: tuple[TestReport, ...]) -> list[TestReport]:
    """The smallest failure, a public one if there is any, and the smallest of those with another verdict."""
    ordered = sorted(failures, key=lambda test: (not test.public, len(test.input or "")))
    return [ordered[0], *[test for test in ordered if test.verdict is not ordered[0].verdict][:1]]


def _verdict_line(report: Report, shown: TestReport) -> str:
    count = f"passed {report.passed} of {len(report.tests)} tests"
    if len(report.failures) > 1:
        count += f", failed {len(report.failures)}, not run {report.skipped}"
    return f"{_heading(shown)}: {count}."


def _heading(test: TestReport) -> str:
    return HEADINGS.get(test.verdict, "Failed")


def _input_label(test: TestReport, max_chars: int) -> str:
    """An input that is too long to show says how large it is."""
    value = (test.input or "").rstrip()
    if test.verdict is not Verdict.TIME_LIMIT or len(value) <= max_chars:
        return "Input"
    return f"Input of {len(value)} characters in {value.count(chr(10)) + 1} lines"


def _comparison(test: TestReport, output: str, expected: str, report: Report) -> list[str]:
    """Where an output of several lines first differs, and what it is that differs, if that is certain."""
    found, wanted = lines_of(output), lines_of(expected)
    lines = []
    if test.printed and max(len(found), len(wanted)) > 1 and output.strip():
        same_line = COMPARATORS[report.comparator].line
        at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if not same_line(a, b)), None)
        if at is not None:
            lines.append(f"First difference: line {at + 1}, {_token_difference(found[at], wanted[at])}.")
        if len(found) != len(wanted):
            lines.append(f"The output has {_lines(len(found))}, expected {len(wanted)}.")
    if hint := _hint(test, output, expected):
        lines.append(hint)
    return lines


def _token_difference(found: str, wanted: str) -> str:
    got, right = found.split(), wanted.split()
    pairs = list(zip(got, right, strict=False))
    differing = [i for i, (a, b) in enumerate(pairs) if a != b]
    at = next((i for i in differing if not _same_number(*pairs[i])), differing[0] if differing else None)
    if at is None:
        return f"got {_tokens(len(got))}, expected {len(right)}" if len(got) != len(right) else "only white space"
    return f"token {at + 1}: got {_token(got[at])}, expected {_token(right[at])}"


def _hint(test: TestReport, output: str, expected: str) -> str | None:
    """What is certain about a wrong answer from its two texts alone."""
    if max(len(output), len(expected)) > MAX_HINT_CHARS:
        return None
    found, wanted = output.split(), expected.split()
    if test.printed and wanted and not found:
        return "Nothing was printed."
    if test.printed and "None" in lines_of(output) and "None" not in wanted:
        return "None was printed."
    if "".join(found) == "".join(wanted):
        return "Only white space differs."
    if [token.casefold() for token in found] == [token.casefold() for token in wanted]:
        return "Only upper and lower case differ."
    return "Only the precision of numbers differs." if _nearly_same(test, output, expected) else None


def _nearly_same(test: TestReport, output: str, expected: str) -> bool:
    if not test.printed:
        return near_value(output, expected) and not same_value(output, expected)
    found, wanted = lines_of(output), lines_of(expected)
    return len(found) == len(wanted) and all(near_line(a, b) for a, b in zip(found, wanted, strict=True))


def _same_number(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


def _token(text: str) -> str:
    return _shown(text, MAX_TOKEN_CHARS)


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


def _shown(text: str, max_chars: int) -> str:
    """`text` as `shorten` would have it, printable and without addresses; the note counts its own characters."""
    if "at 0x" in text:  # much faster than the pattern on megabytes
        text = _ADDRESS.sub("at 0x...", text)
    text = text.replace("\r\n", "\n")
    if len(text) <= max_chars and len(whole := _printable(text)) <= max_chars:
        return whole
    kept = max_chars - len(_note(text))
    if kept < 2:
        return _printable(text[:max_chars])[:max_chars]
    return _cut(text, _fitting(text[:kept], (kept + 1) // 2), _fitting(text[-kept:][::-1], kept // 2))


def _fitting(text: str, max_chars: int) -> int:
    """How many characters at the start of `text` take at most `max_chars` when they are printed."""
    left = max_chars
    for count, character in enumerate(text):
        left -= len(_printable(character))
        if left < 0:
            return count
    return len(text)


def _one_line(text: str) -> str:
    return _printable(text).replace("\n", "\\n")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
