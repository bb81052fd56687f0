"""Every world's judge, held equal to its real outcome service: code-feedback over a sandbox, critic-feedback's rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest

from services.code_feedback.app import create_app as code_feedback
from services.critic_feedback.app import create_app as critic_feedback
from shared.protocol import Feedback, FeedbackItem, FeedbackRequest, FeedbackResponse, Response, Task
from shared.settings import CodeFeedbackSettings, Settings
from tests.serving import running
from trainer.tasks import World, load_world
from trainer.tasks.house_dialect import programs as house
from trainer.tasks.house_dialect.documents import prior_line
from trainer.tasks.renamed_library import programs as library
from trainer.tasks.renamed_library.documents import prior_call
from trainer.tasks.rigid_math import problems
from trainer.tasks.rigid_math.documents import attempt

Ask = Callable[[Sequence[tuple[Task, str]]], list[Feedback]]

ANY_TEXT = (
    "",
    "I do not know.",
    "```python\ndef solve(x):\n    return x\n",
    "```python\ndef solve(x)\n    return x\n```",
    "```python\ndef other(x):\n    return x\n```",
    "```python\ndef solve(x):\n    return undefined\n```",
    "```python\ndef solve(x):\n    return {1, 2}\n```",
    "```\ndef solve(x):\n\treturn x\n        return 1\n```",
    "```python\n\0\n```",
    "The answer is 4.\nAnswer: four",
)


@pytest.fixture(scope="module")
def code_url() -> Iterator[str]:
    with running(code_feedback(Settings(code_feedback=CodeFeedbackSettings(workers=1)))) as base:
        yield base


@pytest.fixture(scope="module")
def critic_url() -> Iterator[str]:
    with running(critic_feedback(Settings())) as base:
        yield f"{base}/answer"


def ask(url: str, answers: Sequence[tuple[Task, str]]) -> list[Feedback]:
    items = [
        FeedbackItem(trajectory_id=f"t{i}", group_id="g", policy_version=0, task=task, response=Response(text=text))
        for i, (task, text) in enumerate(answers)
    ]
    body = FeedbackRequest(run_id="r", deadline_s=90, items=items).model_dump(mode="json")
    response = httpx.post(f"{url}/v1/feedback", json=body, timeout=100)
    return FeedbackResponse.model_validate(response.raise_for_status().json()).results


def attempts(world: World, task: Task, draw: random.Random) -> list[str]:
    """Responses as a model of the world writes them, right and wrong, and some that are a little off."""
    text = task.messages[-1].content
    if task.id.startswith("renamed_library"):
        steps = library.asked(text)
        real = load_world("renamed_library", world_seed=0, seed=1).library  # type: ignore[attr-defined]
        right = library.program([library.Call(real.real(step.concept), step.constant) for step in steps])
        wrong = library.program([prior_call(draw, step) for step in steps])
    elif task.id.startswith("rigid_math"):
        one = problems.problem(text)
        right = problems.written(problems.right_solution(one))
        wrong = problems.written(attempt(draw, one))
    else:
        right = world.solution(task)  # type: ignore[attr-defined]
        wrong = house.program([prior_line(draw, step) for step in house.asked(text)])
    last = right.split("\n")[-3]
    repeated = right.replace(last, f"{last}\n{last}")
    shorter = right.replace(f"{last}\n", "")
    broken = right.replace("    ", "  ", draw.randint(1, 2))
    longer = wrong.replace("\n", "\n\n", draw.randint(1, 3))
    return [right, wrong, repeated, shorter, broken, longer, f"Sure.\n{right}", right[: draw.randrange(len(right))]]


@pytest.mark.parametrize("name", ["renamed_library", "house_dialect", "cold_start", "outcome_only", "rigid_math"])
def test_a_judge_says_what_the_service_says(name: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("critic_url" if name == "rigid_math" else "code_url")
    world, draw = load_world(name, world_seed=0, seed=1), random.Random(name)
    answers = [(task, text) for task in world.training(0, 3) for text in attempts(world, task, draw)]
    answers += [(world.held_out(1)[0], text) for text in ANY_TEXT]
    successes = set()
    for (task, text), said in zip(answers, ask(url, answers), strict=True):
        outcome = world.judge(task, text)
        assert (said.status, outcome.success) == ("ok", said.success), text
        assert outcome.text == (None if name == "outcome_only" else said.text), text
        successes.add(outcome.success)
    assert successes == {True, False}


@pytest.mark.parametrize("name", ["renamed_library", "house_dialect", "rigid_math"])
def test_a_remark_is_one_short_sentence_about_a_failure_and_none_about_a_success(name: str) -> None:
    world, draw = load_world(name, world_seed=0, seed=1), random.Random(name)
    for task in world.training(0, 30):
        for text in [*attempts(world, task, draw)[:2], "nonsense"]:
            remark = world.remark(task, text)
            assert (remark is None) == world.judge(task, text).success
            assert remark is None or (len(remark) < 80 and remark.endswith(".") and "\n" not in remark)


@pytest.mark.parametrize("name", ["renamed_library", "house_dialect"])
def test_who_follows_one_remark_after_another_comes_to_a_success(name: str) -> None:
    world, draw = load_world(name, world_seed=2, seed=1), random.Random(name)
    for task in world.training(0, 20):
        text = _first_attempt(name, task, draw)
        for _ in range(3):
            remark = world.remark(task, text)
            if remark is not None:
                text = _followed(name, task, text, remark)
        assert world.judge(task, text).success


def _first_attempt(name: str, task: Task, draw: random.Random) -> str:
    question = task.messages[-1].content
    if name == "renamed_library":
        return library.program([prior_call(draw, step) for step in library.asked(question)])
    return house.program([prior_line(draw, step) for step in house.asked(question)])


def _followed(name: str, task: Task, text: str, remark: str) -> str:
    if name == "renamed_library":
        _, right, _, _, written = remark.removesuffix(".").split(" ")
        return text.replace(f"lib.{written}(", f"lib.{right}(")
    words, _, expression = remark.removeprefix("In this house ").removesuffix(".").partition(" means ")
    at = [step.words for step in house.asked(task.messages[-1].content)].index(words)
    lines = house.parse(text) or []
    mended = next(f for f in house.FUNCTIONS if expression.startswith(f.expression) and expression[:-1] == f.expression)
    return house.program([house.Line(mended, line.constant) if i == at else line for i, line in enumerate(lines)])
