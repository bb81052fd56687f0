"""Running out of memory, as one sentence that says which setting to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from shared.errors import SettingsError
from shared.settings import LearnerSettings, ModelSettings

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Of torch's RuntimeErrors, those that are about memory."""


@contextlib.contextmanager
def memory_errors(model: ModelSettings, learner: LearnerSettings | None) -> Iterator[None]:
    """Raises SettingsError where the inside runs out of memory, on a GPU or the host; other errors pass.

    `learner` None: while the model is loaded, before there are rows.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        if learner is None:
            sentence = f"The model does not fit into memory: {_to_load(model)}."
        else:
            sentence = f"The trainer ran out of memory: {_to_train(model, learner)}."
        raise SettingsError(sentence) from error


def _is_about_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)


def _to_load(model: ModelSettings) -> str:
    if model.lora is None:
        return "train an adapter instead of all weights (model.lora.rank=16, model.dtype=bfloat16)"
    if model.dtype == "float32":
        return "set model.dtype=bfloat16, which halves it"
    return "take a smaller model.path, or a machine with more memory"


def _to_train(model: ModelSettings, learner: LearnerSettings) -> str:
    """What would help and is not done yet, what costs least first."""
    ways = [
        f"lower learner.microbatch_tokens (now {learner.microbatch_tokens})",
        f"lower learner.chunk_tokens (now {learner.chunk_tokens})",
    ]
    if not model.gradient_checkpointing:
        ways.append("set model.gradient_checkpointing=true")
    if model.lora is None:
        ways.append("train an adapter instead of all weights (model.lora.rank=16)")
    return ", ".join(ways[:-1]) + f", or {ways[-1]}"
