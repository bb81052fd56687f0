"""From a checked request to an answer: what both the native and the OpenAI-compatible routes do with an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from services.inference.engine import Engine, Sampled
from services.inference.text import Text
from shared.errors import DataError, EngineFailure
from shared.hang_up import while_connected
from shared.protocol import (
    Prompt,
    PromptRollouts,
    Rollout,
    Sampling,
    ScoredSequence,
    ScoreSequence,
)

T = TypeVar("T")


async def answered(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up (Problem 499) or the server stops
    (EngineFailure)."""
    working = asyncio.create_task(work)
    try:
        return await while_connected(http, working)
    except asyncio.CancelledError as error:
        # Only a server that stops cancels a request: a 503 lets the client ask the next one, a 500 would not.
        raise EngineFailure("The service is stopping.") from error
    finally:
        working.cancel()


class Requests:
    """What is asked of `engine`, in texts and tokens. Everything wrong with it is a DataError that names the field.

    `tried` returns when no publication is on trial, and raises EngineFailure if one has failed: no answer before.
    """

    def __init__(self, engine: Engine, text: Text, tried: Callable[[], Awaitable[None]]) -> None:
        self.engine = engine
        self.text = text
        self._tried = tried

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt."""
        return [self._prompt_ids(prompt, f"prompts.{index}") for index, prompt in enumerate(prompts)]

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Raises DataError unless `ids` are some of the model's token ids."""
        if not ids:
            raise DataError(f"{field} is empty: a prompt has at least one token.", field=field)
        vocabulary = self.engine.info.vocabulary
        wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise DataError(f"{field} holds {wrong}; the model's token ids end at {vocabulary - 1}.", field=field)

    def fitted(self, ids: Sequence[Sequence[int]], sampling: Sampling, field: str) -> Sampling:
        """`sampling` such that its tokens fit the context after the longest of the prompts `ids`.

        Raises DataError (`field`) where they do not and the request does not say that they may be fewer.
        """
        longest, context = max(map(len, ids)), self.engine.info.max_context
        left = context - longest
        if sampling.max_tokens <= left:
            return sampling
        if sampling.clamp_max_tokens and left > 0:
            return sampling.model_copy(update={"max_tokens": left})
        raise DataError(
            f"A prompt of {longest} tokens and {field} of {sampling.max_tokens} exceed the model's context of "
            f"{context}: shorten the prompt or ask for fewer tokens.",
            field=field,
        )

    async def generate(self, ids: Sequence[list[int]], n: int, sampling: Sampling) -> list[list[Sampled]]:
        """`n` responses to each prompt, in order. Raises EngineFailure."""
        made = await self.engine.generate(ids, n, sampling)
        await self._tried()
        return made

    async def sample(self, ids: Sequence[list[int]], n: int, sampling: Sampling) -> list[PromptRollouts]:
        """`n` rollouts of each prompt, in order. Raises EngineFailure."""
        made = await self.generate(ids, n, sampling)
        return [
            PromptRollouts(prompt_token_ids=prompt, rollouts=[self._rollout(sampled) for sampled in several])
            for prompt, several in zip(ids, made, strict=True)
        ]

    async def score(self, sequences: Sequence[ScoreSequence]) -> list[ScoredSequence]:
        """Log-probs of the tokens after each prompt, in order. Raises EngineFailure."""
        for index, sequence in enumerate(sequences):
            self._check_sequence(sequence, f"sequences.{index}")
        whole = [[*sequence.prompt_token_ids, *sequence.token_ids] for sequence in sequences]
        scored = await self.engine.score(whole)
        await self._tried()
        return [
            ScoredSequence(logprobs=one.logprobs[-len(sequence.token_ids) :], version=one.version)
            for one, sequence in zip(scored, sequences, strict=True)
        ]

    def _check_sequence(self, sequence: ScoreSequence, field: str) -> None:
        self.check_ids(sequence.prompt_token_ids, f"{field}.prompt_token_ids")
        self.check_ids(sequence.token_ids, f"{field}.token_ids")
        length, context = len(sequence.prompt_token_ids) + len(sequence.token_ids), self.engine.info.max_context
        if length > context:
            raise DataError(
                f"{field} has {length} tokens with its prompt, more than the model's context of {context}.",
                field=f"{field}.token_ids",
            )

    def _prompt_ids(self, prompt: Prompt, field: str) -> list[int]:
        if (prompt.messages is None) == (prompt.token_ids is None):
            raise DataError(f"{field} must have exactly one of messages and token_ids.", field=field)
        if prompt.token_ids is not None:
            self.check_ids(prompt.token_ids, f"{field}.token_ids")
            return prompt.token_ids
        try:
            return self.text.render(prompt.messages or [])
        except DataError as error:
            raise DataError(str(error), field=f"{field}.messages") from error

    def _rollout(self, sampled: Sampled) -> Rollout:
        return Rollout(
            text=self.text.decode(sampled.token_ids),
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish_reason=sampled.finish_reason,
            versions=sampled.versions,
        )
