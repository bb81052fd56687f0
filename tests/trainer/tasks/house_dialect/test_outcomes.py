"""What the tests of a program say: the words a model reads, and which line went wrong first."""

from __future__ import annotations

from trainer.tasks.house_dialect.outcomes import Outcome, judge
from trainer.tasks.house_dialect.programs import Line
from trainer.tasks.house_dialect.verbs import ADD, MULTIPLY

TESTS = [(7, 1, 10), (7, 2, 14), (1, 1, 4), (1, 2, 2)]


def test_the_right_lines_pass() -> None:
    assert judge([Line(ADD, 3), Line(MULTIPLY, 2)], TESTS) == Outcome(True, "Passed all 4 tests.")


def test_a_wrong_line_fails_the_test_of_its_own_step() -> None:
    text = "Wrong answer: passed 1 of 4 tests.\nInput:\n7\n2\nOutput: 9\nExpected: 14"
    assert judge([Line(ADD, 3), Line(ADD, 2)], TESTS) == Outcome(False, text, diverges_at=1)


def test_a_line_that_is_wrong_for_some_inputs_alone_fails_at_the_first_of_those() -> None:
    outcome = judge([Line(ADD, 3), Line(ADD, 2)], [(2, 1, 5), (2, 2, 4), (7, 1, 10), (7, 2, 14)])
    assert outcome.text.startswith("Wrong answer: passed 3 of 4 tests.\nInput:\n7\n2\n")
    assert outcome.diverges_at == 1
