"""Prompts that leave no room for a response in the model's context: the inference service refuses them.

It has the tokenizer, and counts the tokens of training prompts before the first is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from shared.errors import DataError
from shared.inference_client import InferenceClient
from shared.protocol import Prompt, Task
from trainer.tasks import TaskSet
from trainer.tasks.finite import FiniteTasks

log = structlog.get_logger("tasks")
_AT_ONCE = 32
FIX = "Lower rollout.max_tokens, set tasks.max_prompt_chars, or take another model."


async def leave_out_long(tasks: TaskSet, inference: InferenceClient, *, max_tokens: int) -> TaskSet:
    """`tasks` without the training prompts that have no room for `max_tokens` more. What a world draws without end
    stays as it is. Raises DataError where none is left, ServiceUnavailable where the service stays away."""
    if not isinstance(tasks, FiniteTasks):
        return tasks
    every = tasks.all_training
    lengths, context = await _lengths(every, inference)
    kept = [task for task, length in zip(every, lengths, strict=True) if length + max_tokens <= context]
    if len(kept) == len(every):
        return tasks
    if not kept:
        sentence = no_room("training", lengths, max_tokens=max_tokens, context=context)
        raise DataError(f"{sentence} {FIX}", field="rollout.max_tokens")
    log.warning(
        "training prompts left out that have no room for a response",
        prompts=len(every) - len(kept),
        of=len(every),
        longest=max(lengths),
        max_tokens=max_tokens,
        context=context,
    )
    return tasks.with_training(kept)


async def refuse_long(tasks: Sequence[Task], inference: InferenceClient, *, max_tokens: int) -> None:
    """Raises DataError, which names the first of them, where held-out tasks leave no room for `max_tokens`."""
    lengths, context = await _lengths(tasks, inference)
    long = [task.id for task, length in zip(tasks, lengths, strict=True) if length + max_tokens > context]
    if long:
        sentence = no_room("held-out", lengths, max_tokens=max_tokens, context=context)
        raise DataError(f"{sentence} The first is that of task '{long[0]}'. {FIX}", field="rollout.max_tokens")


def no_room(kind: str, lengths: Sequence[int], *, max_tokens: int, context: int) -> str:
    """How many of the prompts of these lengths have none, in a sentence."""
    long = sum(length + max_tokens > context for length in lengths)
    return (
        f"{long:,} of {len(lengths):,} {kind} prompts leave no room for rollout.max_tokens of {max_tokens:,} in the "
        f"model's context of {context:,}; the longest has {max(lengths):,} tokens."
    )


async def _lengths(tasks: Sequence[Task], inference: InferenceClient) -> tuple[list[int], int]:
    """Tokens of each prompt, and the model's context."""
    lengths: list[int] = []
    context = 0
    for start in range(0, len(tasks), _AT_ONCE):
        prompts = [Prompt(messages=list(task.messages)) for task in tasks[start : start + _AT_ONCE]]
        counts = await inference.token_counts(prompts)
        lengths += counts.tokens
        context = counts.max_context
    return lengths, context
