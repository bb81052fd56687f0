"""The three sources of critic-feedback."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from feedback_builders import a_source, an_item
from hypothesis import given
from hypothesis import strategies as st
from serving import running

from services.critic_feedback.answers import as_letter, find_answer, find_letter, same_value
from services.critic_feedback.app import create_app, judge_answer, show_sibling
from services.critic_feedback.critic import prompt
from shared.feedback_client import FeedbackClient
from shared.protocol import Feedback, FeedbackItem, Sibling
from shared.settings import CriticFeedbackSettings, Settings


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 42 </answer>", "42"),
        ("<answer>1</answer> no, <ANSWER>2</ANSWER>", "2"),
        ("It is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("Answer: 5", "5"),
        ("**Answer:** x = 3.", "x = 3"),
        ("The final answer is 7.", "7"),
        ("Answer: 1\n<answer>2</answer>", "2"),
        ("<think>Answer: 1</think>I do not know", None),
        ("\\boxed{1", None),
        ("<answer>1", None),
        ("I will answer later", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize("text", ["B", "b", "(B)", "B.", "B)", "**B**", "\\text{B}", "B) because", "B, since it is"])
def test_a_letter_is_read_in_every_usual_form(text: str) -> None:
    assert as_letter(text) == "B"


@pytest.mark.parametrize("text", ["", "BC", "Because", "B or C", "1", "(", "É"])
def test_what_is_no_single_letter_is_none(text: str) -> None:
    assert as_letter(text) is None


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("0.5", "\\frac{1}{2}"),
        ("\\frac12", "1/2"),
        ("\\dfrac{\\sqrt{3}}{2}", "\\frac{\\sqrt 3}{2}"),
        ("1,234,567", "1234567"),
        ("$x = 5$", "5"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("2^{10}", "1024"),
        ("50\\%", "50"),
        ("90^\\circ", "90"),
        ("\\left( 1, \\frac{2}{4} \\right)", "(1, 0.5)"),
        ("\\text{Monday}", "monday"),
        ("3\\cdot 4", "12"),
        ("-0", "0"),
    ],
)
def test_equal_values_in_different_notation_are_equal(given_: str, expected: str) -> None:
    assert same_value(given_, expected) and same_value(expected, given_)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("3", "-3"),
        ("0.33", "1/3"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "1"),
        ("x", "y"),
        ("", "0"),
        ("9^9^9^9", "1"),
        ("1/0", "2/0"),
        ("(" * 199, "1"),
        ("10^{-400}", "0"),
        ("x" * 10**6, "1"),
        ("inf", "1e999"),
    ],
)
def test_different_values_are_different_and_no_answer_can_hang_or_crash_the_judge(given_: str, expected: str) -> None:
    assert not same_value(given_, expected) and not same_value(expected, given_)


@given(st.text(alphabet="0123456789.+-*/^(){}[],\\ frac sqrt$x=e_%", max_size=80))
def test_the_judge_survives_any_answer_and_finds_it_equal_to_itself(text: str) -> None:
    assert same_value(text, text)
    same_value(text, "1")


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_equals_itself_in_latex(value: Any) -> None:
    assert same_value(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}")
    assert not same_value(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", str(value + 1))


def test_a_flood_of_openings_is_no_answer_and_hangs_nobody() -> None:
    assert find_letter("<answer>" * 1_000_000 + "\\boxed{" * 50_000) is None


@pytest.mark.parametrize(
    ("kind", "text", "answer", "reward"),
    [
        ("choice", "Answer: (b)", "B", 1.0),
        ("choice", "Answer: A", "B", 0.0),
        ("math", "\\boxed{0.5}", "1/2", 1.0),
        ("math", "\\boxed{2}", 2, 1.0),
        ("math", "\\boxed{3}", "2", 0.0),
    ],
)
def test_outcomes_of_choice_and_math(kind: str, text: str, answer: Any, reward: float) -> None:
    said = judge_answer(an_item(text=text, kind=kind, answer=answer))
    assert (said.status, said.reward, said.success) == ("ok", reward, reward == 1)


def test_no_answer_is_a_failed_one_and_the_text_says_how_to_give_it() -> None:
    said = judge_answer(an_item(text="Hm", kind="choice", answer="B", finish_reason="length"))
    assert (said.reward, said.success) == (0, False) and said.text is not None
    assert said.text.startswith("No answer found") and "length limit" in said.text


@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        ("code.stdin", "B", "'code.stdin'"),
        ("choice", None, "task.reference.answer"),
        ("choice", "BC", "one letter"),
        ("math", None, "task.reference.answer"),
        ("math", ["1"], "task.reference.answer"),
    ],
)
def test_what_cannot_be_judged_is_a_data_error_and_no_reward(kind: str, answer: Any, words: str) -> None:
    said = judge_answer(an_item(text="Answer: B", kind=kind, answer=answer))
    assert (said.status, said.reward, said.success) == ("error", None, None)
    assert said.error is not None and said.error.class_ == "data" and words in said.error.message


def _sibling(name: str, text: str, success: bool | None) -> Sibling:
    return Sibling(trajectory_id=name, text=text, success=success)


def test_a_successful_sibling_is_shown_and_marked_as_giving_the_answer() -> None:
    siblings = [_sibling("r9", "late", True), _sibling("r2", "x", True), _sibling("r3", "good", True)]
    said = show_sibling(an_item(text="x", siblings=[*siblings, _sibling("r1", "bad", False)]))
    assert (said.status, said.text, said.contains_answer, said.reward) == ("ok", "good", True, None)


@pytest.mark.parametrize(
    "siblings",
    [[], [_sibling("r1", "bad", False), _sibling("r2", "unknown", None)], [_sibling("r0", "itself", True)]],
)
def test_without_another_success_the_sibling_source_abstains(siblings: list[Sibling]) -> None:
    said = show_sibling(an_item(0, siblings=siblings, success=True))
    assert (said.status, said.text) == ("abstain", None)


def test_braces_in_what_was_written_fill_nothing() -> None:
    filled = prompt(an_item(text="{task} {outcome} {0} {{attempt}}", success=False))
    assert "{task} {outcome} {0} {{attempt}}" in filled and "judged wrong" in filled
    assert filled.count("What is it?") == 1


def _critic(answer: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        return await answer(request)

    return app


async def _speaks(request: Request) -> Any:
    body = await request.json()
    said = f"{request.headers['authorization']} {body['model']} {body['max_tokens']}"
    return {"choices": [{"message": {"role": "assistant", "content": f" {said} "}}]}


async def _silent(_: Request) -> Any:
    return {"choices": [{"message": {"role": "assistant", "content": None}}]}


async def _refuses(_: Request) -> Any:
    return Response(status_code=400)


async def _breaks(_: Request) -> Any:
    return Response(status_code=500)


async def _babbles(_: Request) -> Any:
    return {"choices": []}


async def _hangs(_: Request) -> Any:
    await asyncio.Event().wait()


def _ask(url: str, items: list[FeedbackItem], **source: Any) -> list[Feedback]:
    async def ask() -> list[Feedback]:
        client = FeedbackClient("s", a_source(url, **source), api_key=None)
        try:
            return await client.ask("run", items)
        finally:
            await client.aclose()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "status", "class_"),
    [
        (_speaks, "ok", None),
        (_silent, "abstain", None),
        (_refuses, "error", "data"),
        (_breaks, "error", "infra"),
        (_babbles, "error", "infra"),
        (_hangs, "timeout", "infra"),
    ],
)
def test_the_critic_speaks_or_says_why_not(answer: Any, status: str, class_: str | None) -> None:
    with running(_critic(answer)) as critic:
        own = CriticFeedbackSettings(critic_url=f"{critic}/v1", critic_model="m", critic_api_key="c")
        with running(create_app(Settings(critic_feedback=own))) as url:
            found = _ask(f"{url}/critique", [an_item(i) for i in range(3)], timeout_s=0.8 if answer is _hangs else 30)
    assert [(one.status, one.reward) for one in found] == [(status, None)] * 3
    assert {one.error.class_ if one.error else None for one in found} == {class_}
    if status == "ok":
        assert [(one.text, one.source.kind) for one in found] == [("Bearer c m 256", "llm")] * 3


def test_a_critic_that_is_away_leaves_the_other_sources_ready() -> None:
    own = CriticFeedbackSettings(critic_url="http://127.0.0.1:1/v1")
    with running(create_app(Settings(critic_feedback=own))) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        (critique,) = _ask(f"{url}/critique", [an_item()])
        (answer,) = _ask(f"{url}/answer", [an_item(text="Answer: B", kind="choice", answer="B")], role="both")
    assert critique.error is not None and critique.error.class_ == "infra" and "127.0.0.1:1" in critique.error.message
    assert (answer.reward, answer.source.kind) == (1, "rule")


def test_each_base_path_describes_its_own_source() -> None:
    with running(create_app(Settings())) as url:
        found = {name: httpx.get(f"{url}/{name}/v1/capabilities").json() for name in ("answer", "sibling", "critique")}
    assert [(f["name"], f["kind"], f["gives_reward"], f["needs_siblings"]) for f in found.values()] == [
        ("answer", "rule", True, False),
        ("sibling", "sibling", False, True),
        ("critique", "llm", False, False),
    ]
