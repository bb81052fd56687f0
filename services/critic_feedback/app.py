"""Three feedback sources under one roof, each a base path with the feedback routes below it.

    /answer     outcome of `choice` and `math` tasks, by rule
    /sibling    a successful sibling's response, as a demonstration
    /critique   what a language model says; by default the policy about itself

`/readyz` does not ask the critic: the other two need nobody.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI

from services.critic_feedback.answers import as_letter, find_answer, find_letter, same_value
from services.critic_feedback.critic import Critic
from services.critic_feedback.equality import Equality
from shared.errors import DataError, InfrastructureError, ServiceUnavailable
from shared.feedback_results import abstention, failure, feedback_id
from shared.protocol import Capabilities, Feedback, FeedbackItem, FeedbackRequest, FeedbackResponse, SourceInfo
from shared.service import create_service
from shared.settings import CriticFeedbackSettings, Settings

VERSION = "1"
ANSWER = SourceInfo(name="answer", kind="rule", version=VERSION)
SIBLING = SourceInfo(name="sibling", kind="sibling", version=VERSION)
CRITIQUE = SourceInfo(name="critique", kind="llm", version=VERSION)
# The caller's clock started before ours: what is left over lets our answer arrive in time.
DEADLINE_SHARE = 0.9

Answerer = Callable[[FeedbackRequest], Coroutine[Any, Any, list[Feedback]]]


def create_app(settings: Settings) -> FastAPI:
    """The critic-feedback service."""
    critic, equality = Critic(settings), Equality(settings.critic_feedback)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await critic.aclose()
        await asyncio.to_thread(equality.close)

    async def judge_all(request: FeedbackRequest) -> list[Feedback]:
        # Rules first, all at once: choice and plain numbers never wait for a formula.
        ruled = await asyncio.to_thread(lambda: [judge_by_rule(item) for item in request.items])
        undecided = (_decide_in_time(equality, one, request.deadline_s) for one in ruled if isinstance(one, Undecided))
        decided = iter(await asyncio.gather(*undecided))
        return [next(decided) if isinstance(one, Undecided) else one for one in ruled]

    async def critique_all(request: FeedbackRequest) -> list[Feedback]:
        return list(await asyncio.gather(*(_critique(critic, item, request.deadline_s) for item in request.items)))

    app = create_service("critic-feedback", settings, lifespan=lifespan, description=__doc__ or "")
    kinds = ["choice", "math"]
    app.include_router(_source(ANSWER, judge_all, task_kinds=kinds, gives_reward=True, gives_text=True))
    app.include_router(_source(SIBLING, _each(show_sibling), needs_siblings=True, gives_text=True))
    app.include_router(_source(CRITIQUE, critique_all, gives_text=True))
    return app


@dataclass(frozen=True)
class Undecided:
    """A `math` item whose answer may be the expected one in another form."""

    item: FeedbackItem
    given: str
    expected: str


def judge_by_rule(item: FeedbackItem) -> Feedback | Undecided:
    """The outcome of a `choice` or `math` item; a response without an answer is a failed one."""
    if item.task.kind not in ("choice", "math"):
        message = f"This source judges tasks of kind 'choice' and 'math', not '{item.task.kind}'."
        return failure(item, ANSWER, message, class_="data")
    reference = item.task.reference.get("answer")
    expected = str(reference) if isinstance(reference, str | int | float) else ""
    letter = as_letter(expected) if item.task.kind == "choice" else None
    if not expected.strip() or (item.task.kind == "choice" and letter is None):
        wanted = "one letter" if item.task.kind == "choice" else "a number or an expression"
        return failure(item, ANSWER, f"Field 'task.reference.answer' must be {wanted}.", class_="data")
    if item.task.kind == "choice":
        given = find_letter(item.response.text)
        return _verdict(item, given, given == letter)
    given = find_answer(item.response.text)
    same = given is not None and same_value(given, expected)
    return Undecided(item, given, expected) if given is not None and same is None else _verdict(item, given, bool(same))


def judge_answer(item: FeedbackItem) -> Feedback:
    """What the service answers about an item, found without it; blocks."""
    ruled = judge_by_rule(item)
    return decide(_own_equality(), ruled) if isinstance(ruled, Undecided) else ruled


def decide(equality: Equality, one: Undecided) -> Feedback:
    """The outcome of an item that takes algebra; blocks."""
    try:
        return _verdict(one.item, one.given, equality.same(one.given, one.expected))
    except InfrastructureError as error:
        return failure(one.item, ANSWER, str(error), class_="infra", retryable=True)
    except DataError as error:
        return failure(one.item, ANSWER, str(error), class_="data")


async def _decide_in_time(equality: Equality, one: Undecided, deadline_s: float) -> Feedback:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s * DEADLINE_SHARE):
            return await loop.run_in_executor(equality.threads, decide, equality, one)
    except TimeoutError:
        message = "The deadline came before this answer was compared with the reference."
        return failure(one.item, ANSWER, message, class_="infra", status="timeout", retryable=True)


@lru_cache(1)
def _own_equality() -> Equality:
    equality = Equality(CriticFeedbackSettings())
    atexit.register(equality.close)
    return equality


def show_sibling(item: FeedbackItem) -> Feedback:
    """Another successful rollout of the same prompt as a demonstration: the first by id, one that differs from this
    response if there is one."""
    successes = sorted(
        (s for s in item.siblings if s.success and s.trajectory_id != item.trajectory_id and s.text.strip()),
        key=lambda sibling: (sibling.text == item.response.text, sibling.trajectory_id),
    )
    if not successes:
        return abstention(item, SIBLING)
    return _ok(item, SIBLING, text=successes[0].text, contains_answer=True)


async def _critique(critic: Critic, item: FeedbackItem, deadline_s: float) -> Feedback:
    try:
        async with asyncio.timeout(deadline_s * DEADLINE_SHARE):
            text = await critic.critique(item)
    except TimeoutError:
        message = f"The critic at {critic.url} did not answer in time."
        return failure(item, CRITIQUE, message, class_="infra", status="timeout", retryable=True)
    except ServiceUnavailable as error:
        return failure(item, CRITIQUE, str(error), class_="infra", retryable=True)
    except DataError as error:
        return failure(item, CRITIQUE, str(error), class_="data")
    return _ok(item, CRITIQUE, text=text) if text else abstention(item, CRITIQUE)


def _verdict(item: FeedbackItem, given: str | None, success: bool) -> Feedback:
    if given is None:
        cut = " The response was cut at its length limit." if item.response.finish_reason == "length" else ""
        text = f"No answer found. Give it as <answer>...</answer>, \\boxed{{...}} or 'Answer: ...'.{cut}"
    else:
        text = f"The answer {given[:200]} is {'correct' if success else 'wrong'}."
    return _ok(item, ANSWER, reward=float(success), success=success, text=text)


def _ok(item: FeedbackItem, source: SourceInfo, **said: Any) -> Feedback:
    return Feedback(
        trajectory_id=item.trajectory_id, feedback_id=feedback_id(item, source), status="ok", source=source, **said
    )


def _each(judge: Callable[[FeedbackItem], Feedback]) -> Answerer:
    async def answer(request: FeedbackRequest) -> list[Feedback]:
        return await asyncio.to_thread(lambda: [judge(item) for item in request.items])

    return answer


def _source(source: SourceInfo, answer: Answerer, **capabilities: bool | Sequence[str]) -> APIRouter:
    """The feedback routes below `/<name>`."""
    router = APIRouter(prefix=f"/{source.name}", tags=[source.name])
    ability = Capabilities.model_validate({**source.model_dump(), **capabilities})

    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """What this source says about each item."""
        return FeedbackResponse(results=await answer(request))

    async def describe() -> Capabilities:
        """What this source can do."""
        return ability

    router.add_api_route("/v1/feedback", feedback, methods=["POST"], name=f"{source.name}_feedback")
    router.add_api_route("/v1/capabilities", describe, methods=["GET"], name=f"{source.name}_capabilities")
    return router
