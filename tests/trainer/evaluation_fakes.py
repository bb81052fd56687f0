"""A policy for evaluations whose answers depend on what it is asked, and which keeps what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.http_client import mounted
from shared.protocol import (
    Message,
    Prompt,
    PromptRollouts,
    Rollout,
    RolloutResponse,
    Sampling,
    Task,
    TokenCounts,
    VersionSpan,
)
from shared.settings import Settings
from tests.trainer.loop_stack import Judge
from trainer.evaluate import Evaluator, Teacher
from trainer.evaluation.attempts import Attempts

JUDGE = "http://judge"


@dataclass
class Policy:
    """Stands where the inference client does. `before` is called with the number of each request. A prompt has a token
    for each character of its question."""

    version: int = 0
    max_context: int = 2000
    before: Callable[[int, Sequence[Prompt]], None] = lambda *_: None
    requests: list[tuple[list[str], int, Sampling]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def rollouts(self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling) -> RolloutResponse:
        questions = [(prompt.messages or [])[-1].content for prompt in prompts]
        self.requests.append((questions, n, sampling))
        number = len(self.requests)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(0)
            self.before(number, prompts)
        finally:
            self.at_once -= 1
        return answers(questions, n, sampling, version=self.version)

    async def token_counts(self, prompts: Sequence[Prompt]) -> TokenCounts:
        lengths = [len((prompt.messages or [])[-1].content) for prompt in prompts]
        return TokenCounts(tokens=lengths, max_context=self.max_context)


def answers(questions: Sequence[str], n: int, sampling: Sampling, *, version: int = 0) -> RolloutResponse:
    """The rollouts of a request: different ones for different questions, seeds and samples."""
    return RolloutResponse(
        prompts=[
            PromptRollouts(
                prompt_token_ids=[1],
                rollouts=[_rollout(f"{question} {sampling.seed} {place} {i}", version) for i in range(n)],
            )
            for place, question in enumerate(questions)
        ]
    )


def _rollout(drawn: str, version: int) -> Rollout:
    text = hashlib.sha256(drawn.encode()).hexdigest()[:8]
    span = VersionSpan(version=version, start=0, end=2)
    return Rollout(text=text, token_ids=[1, 2], logprobs=[0.0, 0.0], finish_reason="stop", versions=[span])


def tasks(count: int) -> list[Task]:
    return [
        Task(id=f"t{i}", kind="bytes", messages=[Message(role="user", content=f"Question {i}")]) for i in range(count)
    ]


def settings(samples: int, **changes: Any) -> Settings:
    tree: dict[str, Any] = {
        "run": {"dir": str(Path("unused"))},
        "rollout": {"max_tokens": 1000},
        "evaluation": {"samples": samples},
        "feedback": {"sources": {"judge": {"url": JUDGE, "role": "both"}}, "max_outage_s": 0.01},
    }
    return Settings.model_validate({**tree, **changes})


def attempt(
    chosen: Settings,
    policy: Policy,
    judge: Judge,
    what: Sequence[Task],
    attempts: Attempts | None = None,
    *,
    teacher: Teacher = "feedback",
    version: int = 0,
) -> Attempts:
    """`Evaluator.attempt` against these two, without a socket."""
    made = Attempts() if attempts is None else attempts

    async def work() -> None:
        with mounted({JUDGE: judge.app()}):
            evaluator = Evaluator(chosen, policy)  # type: ignore[arg-type]
            try:
                await evaluator.attempt(what, made, version=version, teacher=teacher)
            finally:
                await evaluator.aclose()

    asyncio.run(work())
    return made
