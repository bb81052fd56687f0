"""Training prompts that leave no room for a response in the model's context.

The inference service, which has the tokenizer, counts their tokens before the first is sampled: it would refuse such a
prompt in the middle of a run.
"""

from __future__ import annotations

import structlog

from shared.errors import DataError
from shared.inference_client import InferenceClient
from shared.protocol import Prompt
from trainer.tasks import TaskSet
from trainer.tasks.finite import FiniteTasks

log = structlog.get_logger("tasks")
_AT_ONCE = 128


async def leave_out_long(tasks: TaskSet, inference: InferenceClient, *, max_tokens: int) -> TaskSet:
    """`tasks` without the training prompts that have no room for `max_tokens` more. What a world draws without end
    stays as it is. Raises DataError where none is left, ServiceUnavailable where the service stays away."""
    if not isinstance(tasks, FiniteTasks):
        return tasks
    every, lengths, context = tasks.all_training, [], 0
    for start in range(0, len(every), _AT_ONCE):
        prompts = [Prompt(messages=list(task.messages)) for task in every[start : start + _AT_ONCE]]
        counts = await inference.token_counts(prompts)
        lengths += counts.tokens
        context = counts.max_context
    kept = [task for task, length in zip(every, lengths, strict=True) if length + max_tokens <= context]
    if len(kept) == len(every):
        return tasks
    if not kept:
        raise DataError(
            f"No training prompt leaves room for rollout.max_tokens of {max_tokens} in the model's context of "
            f"{context}: the shortest has {min(lengths)} tokens. Lower rollout.max_tokens, or take another model.",
            field="rollout.max_tokens",
        )
    log.warning(
        "training prompts left out that have no room for a response",
        prompts=len(every) - len(kept),
        of=len(every),
        longest=max(lengths),
        max_tokens=max_tokens,
        context=context,
    )
    return tasks.with_training(kept)
