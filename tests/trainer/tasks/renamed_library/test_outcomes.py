"""What the tests of a program would say, found without running it: held equal to a real sandbox's words."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sandbox.diagnosis import describe
from sandbox.extract import extract_program
from sandbox.isolation import Isolation
from sandbox.judge import Defaults
from sandbox.judge import judge as run
from sandbox.reference import parse_task
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.documents import earlier_attempt
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.outcomes import Outcome, judge
from trainer.tasks.renamed_library.programs import Call, Step, program
from trainer.tasks.renamed_library.task_set import RenamedLibrary

LIBRARY = world_library(0)
ADD = LIBRARY.real(CONCEPTS[0])
MULTIPLY = LIBRARY.real(CONCEPTS[2])
TESTS = [(3, 10), (0, 4), (-2, 0)]


def test_right_names_pass() -> None:
    calls = [Call(ADD, 2), Call(MULTIPLY, 2)]
    assert judge(calls, LIBRARY, TESTS) == Outcome(True, "Passed all 3 tests.")


def test_the_first_old_name_stops_the_program_and_is_the_only_one_revealed() -> None:
    outcome = judge([Call(ADD, 2), Call("multiply", 2), Call("add", 3)], LIBRARY, TESTS)
    assert outcome == Outcome(
        False,
        "Runtime error: passed 0 of 3 tests.\n"
        f"AttributeError: module 'lib' has no attribute 'multiply', it was renamed to '{MULTIPLY}'\n"
        "Line 5 in solve:     x = lib.multiply(x, 2)\n"
        "Input: 3",
        failed_call=1,
        new_name=MULTIPLY,
    )


def test_a_name_nobody_knows_is_an_error_without_a_new_name() -> None:
    outcome = judge([Call("nonsense", 2)], LIBRARY, TESTS)
    assert (outcome.failed_call, outcome.new_name) == (0, None)
    assert "has no attribute 'nonsense'\nLine 4 in solve:     x = lib.nonsense(x, 2)" in outcome.text


def test_a_wrong_result_is_shown_with_its_input_and_the_expected_output() -> None:
    outcome = judge([Call(ADD, 2), Call(ADD, 2)], LIBRARY, [(0, 4), (3, 10), (-4, 0)])
    assert outcome == Outcome(False, "Wrong answer: passed 1 of 3 tests.\nInput: 3\nOutput: 7\nExpected: 10")


def test_a_missing_name_is_a_syntax_error_before_anything_runs() -> None:
    outcome = judge([Call("add", 2), Call("", 2)], LIBRARY, TESTS)
    assert outcome == Outcome(
        False, "Compile error: no test was run.\nSyntaxError: invalid syntax\nLine 5:     x = lib.(x, 2)"
    )


@pytest.fixture(scope="module")
def isolation() -> Iterator[Isolation]:
    # What is run here is the world's own programs, and the tier has no say in the text.
    one = Isolation("unsafe")
    yield one
    one.close()


@pytest.mark.parametrize("knowledge", ["some", "all", "all but one", "no name"])
def test_the_sandbox_says_the_same(isolation: Isolation, knowledge: str) -> None:
    draw = random.Random(knowledge)
    concepts = {c.usual: c for c in CONCEPTS}
    verdicts = set()
    for task in RenamedLibrary(world_seed=0, seed=4).training(0, 6):
        names = task.id.rsplit("-", 1)[1].split(".")
        steps = [Step(concepts[name[:-1]], int(name[-1])) for name in names]
        calls = [Call(LIBRARY.real(s.concept), s.constant) for s in steps]
        if knowledge == "some":
            calls = earlier_attempt(draw, steps, LIBRARY)
        if knowledge == "all but one":
            calls[draw.randrange(len(calls))] = Call(draw.choice(sorted(LIBRARY.by_name)), 3)
        if knowledge == "no name":
            calls[draw.randrange(len(calls))] = Call("", 3)
        source = extract_program(program(calls)).program
        assert source is not None
        report = run(isolation, parse_task(task.kind, task.reference), source, Defaults())
        predicted = judge(calls, LIBRARY, [(int(t["input"]), int(t["output"])) for t in task.reference["tests"]])
        assert (predicted.text, predicted.success) == (describe(report), report.success)
        verdicts.add(predicted.text.split(":")[0].split(" ")[0])
    assert (
        verdicts
        >= {
            "some": {"Runtime"},
            "all": {"Passed"},
            "all but one": {"Wrong"},
            "no name": {"Compile"},
        }[knowledge]
    )
