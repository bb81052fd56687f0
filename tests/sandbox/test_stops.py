from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.stops import MAX_PARSED_CHARS, find_stop, own_line
from sandbox.verdicts import Frame, Stop

SOURCE = """\
def walk(n):
    return n if n < 2 else walk(n - 1) + walk(n - 2)
def solve():
    x = 1
    for i in range(10):
        while True:
            x += 1
            x -= 1
def main():
    with open(0) as f:
        for _ in f:
            solve()
class A:
    def solve(self):
        return sum(range(10**12))
if __name__ == "__main__":
    main()
match 1:
    case 1:
        while 1: pass
for i in (1,):
    def inner():
        return 1
"""


@pytest.mark.parametrize(
    ("stack", "kind", "line"),
    [
        ([(7, "solve"), (12, "main"), (17, None)], "loop", 11),
        ([(8, "solve"), (17, None)], "loop", 5),
        ([(6, "solve")], "loop", 5),
        ([(2, "walk"), (2, "walk"), (17, None)], "recursion", 1),
        ([(2, "walk"), (12, "main"), (2, "walk")], "recursion", 1),
        ([(2, "walk"), (17, None)], "line", 2),
        ([(15, "solve"), (17, None)], "line", 15),
        ([(20, None)], "loop", 20),
        ([(23, "inner"), (24, None)], "line", 23),
        ([(4, "solve")], "line", 4),
    ],
)
def test_the_stop_is_the_outermost_loop_or_recursion_else_the_innermost_line(
    stack: list[tuple[int, str | None]], kind: str, line: int
) -> None:
    stop = find_stop([Frame(number, function) for number, function in stack], SOURCE)
    assert stop is not None
    assert (stop.kind, stop.frame.line) == (kind, line)
    assert stop.frame.source == (own_line(SOURCE, line) or "")


def test_nothing_is_said_without_a_stack_or_of_a_program_too_long_to_parse() -> None:
    assert find_stop([], SOURCE) is None
    assert find_stop([Frame(1)], "x\n" * MAX_PARSED_CHARS) is None
    assert find_stop([Frame(1)], "while") is None


@pytest.mark.parametrize("hostile", ["(" * 5000, "-" * 20_000 + "1", "[" * 90 + "]" * 90, "\0", "\ud800", "x" * 40_000])
def test_a_hostile_program_is_no_error(hostile: str) -> None:
    assert find_stop([Frame(1)], hostile) in (None, Stop("line", Frame(1, None, hostile)))


@given(st.text(max_size=60), st.integers(-3, 9))
def test_a_line_is_there_or_it_is_not(source: str, line: int) -> None:
    found = own_line(source, line)
    assert found is None or not set(found) & {"\n", "\r"}
    assert (own_line(source, 1) is None) is False
    assert own_line(source, 0) is None
