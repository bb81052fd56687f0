"""From a checked request to rollouts: what both the native and the OpenAI-compatible routes do with an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.inference.engine import Engine
from shared.errors import DataError, EngineFailure
from shared.protocol import Prompt, PromptRollouts, Sampling


def prompt_ids(engine: Engine, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt. Raises DataError naming the prompt that is wrong."""
    return [_prompt_ids(engine, prompt, f"prompts.{index}") for index, prompt in enumerate(prompts)]


def check_ids(engine: Engine, ids: Sequence[int], field: str) -> None:
    """Raises DataError unless `ids` are some of the model's token ids."""
    if not ids:
        raise DataError(f"{field} is empty: a prompt has at least one token.", field=field)
    wrong = next((token for token in ids if not 0 <= token < engine.info.vocabulary), None)
    if wrong is not None:
        raise DataError(
            f"{field} holds {wrong}; the model's token ids end at {engine.info.vocabulary - 1}.", field=field
        )


def check_room(engine: Engine, ids: Sequence[Sequence[int]], max_tokens: int, field: str) -> None:
    """Raises DataError unless the longest prompt and `max_tokens` fit the context."""
    longest, context = max(map(len, ids)), engine.info.max_context
    if longest + max_tokens > context:
        raise DataError(
            f"A prompt of {longest} tokens and {field} of {max_tokens} exceed the model's context of {context}: "
            "shorten the prompt or ask for fewer tokens.",
            field=field,
        )


async def sample(engine: Engine, ids: Sequence[list[int]], n: int, sampling: Sampling) -> list[PromptRollouts]:
    """`n` rollouts of each prompt, in order. Raises EngineFailure, also when the server gives the request up."""
    try:
        rollouts = await engine.generate([prompt for prompt in ids for _ in range(n)], sampling)
    except asyncio.CancelledError as error:
        # Only a server that stops cancels a request: a 503 lets the client ask the next one, a 500 would not.
        raise EngineFailure("The service is stopping.") from error
    return [
        PromptRollouts(prompt_token_ids=prompt, rollouts=rollouts[index * n : (index + 1) * n])
        for index, prompt in enumerate(ids)
    ]


def _prompt_ids(engine: Engine, prompt: Prompt, field: str) -> list[int]:
    if (prompt.messages is None) == (prompt.token_ids is None):
        raise DataError(f"{field} must have exactly one of messages and token_ids.", field=field)
    if prompt.token_ids is not None:
        check_ids(engine, prompt.token_ids, f"{field}.token_ids")
        return prompt.token_ids
    try:
        return engine.render(prompt.messages or [])
    except DataError as error:
        raise DataError(str(error), field=f"{field}.messages") from error
