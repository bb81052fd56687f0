"""Equality of mathematics by math-verify in processes that are ended when an answer is too much for them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmark_rows import DATA, real_data
from feedback_builders import an_item
from serving import running

from services.critic_feedback.answers import same_value
from services.critic_feedback.app import create_app, judge_answer
from services.critic_feedback.equality import Equality
from shared.errors import DataError, InfrastructureError
from shared.protocol import FeedbackRequest, FeedbackResponse
from shared.settings import CriticFeedbackSettings, Settings

JSON = {"Content-Type": "application/json"}
TOWER = "9^{9^{9^9}}"


@pytest.fixture(scope="module")
def equality() -> Iterator[Equality]:
    equality = Equality(CriticFeedbackSettings(equality_workers=1, equality_limit_s=0.5))
    yield equality
    equality.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-q + p", "p-q"),
        ("x^2+2x+1", "(x+1)^2"),
        ("\\frac{1}{\\sqrt{3}} y", "\\frac{\\sqrt{3}}{3} y"),
        ("2, 1", "1,2"),
        ("\\{2,1\\}", "\\{1,2\\}"),
        ("1\\frac{1}{2}", "\\frac{3}{2}"),
        ("7\\text{ cm}", "7"),
        ("\\$18.90", "18.9"),
        ("x \\in [-2,7]", "[-2, 7]"),
        ("\\begin{pmatrix} 0.5 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}"),
        ("1+\\sqrt{19}, 1-\\sqrt{19}", "1 \\pm \\sqrt{19}"),
    ],
)
def test_what_takes_algebra_is_left_open_by_the_rules_and_found_equal(
    given: str, expected: str, equality: Equality
) -> None:
    assert same_value(given, expected) is None
    assert equality.same(given, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("q-p", "p-q"),
        ("x", "7"),
        ("1\\frac{1}{2}", "\\frac{1}{2}"),
        ("(2, 5]", "[2,5]"),
        ("3, 4", "4"),
        ("3 or 4", "4"),
        ("3$$4", "4"),
        ("3}\\boxed{4", "4"),
        ("\\text{odd}", "\\text{even}"),
        ("", "x"),
        ("}{", "x"),
    ],
)
def test_different_answers_and_hedged_ones_are_not_equal(given: str, expected: str, equality: Equality) -> None:
    assert not same_value(given, expected)
    assert not equality.same(given, expected)


@pytest.mark.parametrize(
    "given",
    [TOWER, "\\sum_{k=1}^{10000000000} k^k", "{" * 900, "(" * 900 + "x" + ")" * 900, "\\sqrt{" * 300 + "}" * 300],
)
def test_an_answer_that_is_too_much_is_wrong_and_the_next_one_is_judged(given: str, equality: Equality) -> None:
    assert not equality.same(given, "y+1")
    assert equality.same("1+y+0", "y+1")


def test_a_reference_that_is_too_much_is_a_data_error(equality: Equality) -> None:
    with pytest.raises(DataError, match=r"The reference '9\^\{9.*takes more than 0\.5 s of CPU"):
        equality.same("8", TOWER)


def test_very_long_answers_are_equal_to_themselves_alone(equality: Equality) -> None:
    assert equality.same("x+" * 2000 + "1", "x+" * 2000 + "1 ")
    assert not equality.same("x+" * 2000 + "1", "1" + "+x" * 2000)


def test_without_the_libraries_nothing_is_judged_and_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InfrastructureError, match=r"pip install 'vpd\[math\]'"):
        Equality(CriticFeedbackSettings()).same("x", "y")


def test_a_process_that_is_killed_from_outside_is_no_verdict(equality: Equality, monkeypatch: Any) -> None:
    monkeypatch.setattr("services.critic_feedback.equality._compare", _killed)
    with pytest.raises(InfrastructureError, match="ended with -9"):
        equality.same("a killed", "b")
    monkeypatch.undo()
    assert equality.same("1+y+0", "y+1")


def _killed(*_: Any) -> None:
    os.kill(os.getpid(), 9)


def test_choices_and_numbers_are_judged_while_a_formula_takes_longer_than_the_deadline() -> None:
    items = [
        an_item(0, text=f"\\boxed{{{TOWER}}}", kind="math", answer="y"),
        an_item(1, text="\\boxed{0.5}", kind="math", answer="1/2"),
        an_item(2, text="Answer: B", kind="choice", answer="B"),
        an_item(3, text="\\boxed{1}", kind="math", answer="2"),
    ]
    # Shorter than the first comparing process takes to start.
    request = FeedbackRequest(run_id="run", deadline_s=0.05, items=items).model_dump_json()
    settings = Settings(critic_feedback=CriticFeedbackSettings(equality_limit_s=60.0))
    with running(create_app(settings)) as url:
        body = httpx.post(f"{url}/answer/v1/feedback", content=request, headers=JSON, timeout=60).content
    slow, *others = FeedbackResponse.model_validate_json(body).results
    assert (slow.status, slow.reward) == ("timeout", None)
    assert slow.error is not None and slow.error.class_ == "infra" and slow.error.retryable
    assert [one.reward for one in others] == [1.0, 1.0, 0.0]


@real_data
@pytest.mark.parametrize("file", ["math500", "aime24", "aime25"])
def test_every_real_reference_scores_1_and_a_perturbed_one_0(file: str) -> None:
    for line in (DATA / f"{file}.jsonl").read_text().splitlines():
        answer = json.loads(line)["answer"]
        assert score(answer, answer) == 1, answer
        assert score(perturbed(answer), answer) == 0, answer


def score(given: str, expected: str) -> float | None:
    text = f"We find \\boxed{{3}} first. So it is \\boxed{{{given}}}."
    return judge_answer(an_item(text=text, kind="math", answer=expected)).reward


def perturbed(answer: str) -> str:
    """With its first number one larger; one without a number gets a factor."""
    more = re.sub(r"\d+", lambda found: str(int(found.group()) + 1), answer, count=1)
    return more if more != answer else f"{answer} x"


@real_data
@pytest.mark.parametrize("domain", ["biology", "chemistry", "material", "physics"])
def test_every_real_letter_scores_1_and_every_other_one_0(domain: str) -> None:
    for file in sorted(Path(DATA / "sciknoweval" / domain).glob("*.jsonl")):
        for line in file.read_text().splitlines():
            answer = json.loads(line)["answer"]
            for letter in "ABCD":
                text = f"<reasoning>\nNot {answer}?\n</reasoning>\n<answer>\n{letter}\n</answer>"
                said = judge_answer(an_item(text=text, kind="choice", answer=answer))
                assert said.reward == float(letter == answer), line[:100]
