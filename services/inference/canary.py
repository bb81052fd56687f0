"""The canary: a fixed sequence whose log-probs show that the engine serves the weights that the trainer published.

Checksums cannot show it: they are of the file, and an engine can load a right file wrongly.
"""

from __future__ import annotations

import math

from services.inference.engine import Engine, EngineInfo
from shared.errors import DataError, VPDError
from shared.protocol import Canary
from shared.settings import Settings

_NATS = {"float32": 1e-3, "bfloat16": 0.25}
"""Tolerances by `model.dtype`, where the settings name none."""


class CanaryMismatch(VPDError):
    """The engine does not give the log-probs that the trainer gives for what it published."""


def tolerance(settings: Settings) -> float:
    """Largest difference allowed, in nats."""
    return settings.inference.canary_nats or _NATS[settings.model.dtype]


def check_canary(canary: Canary, info: EngineInfo) -> None:
    """Raises DataError unless the engine can score the canary."""
    if len(canary.logprobs) != len(canary.token_ids) - 1:
        raise DataError(
            f"canary.logprobs has {len(canary.logprobs)} entries for {len(canary.token_ids)} tokens: give one for each "
            "token after the first.",
            field="canary.logprobs",
        )
    if len(canary.token_ids) > info.max_context:
        raise DataError(
            f"canary.token_ids has {len(canary.token_ids)} tokens, more than the context of {info.max_context}.",
            field="canary.token_ids",
        )
    wrong = next((token for token in canary.token_ids if not 0 <= token < info.vocabulary), None)
    if wrong is not None:
        raise DataError(
            f"canary.token_ids holds {wrong}; the model's token ids end at {info.vocabulary - 1}.",
            field="canary.token_ids",
        )


async def canary_difference(engine: Engine, canary: Canary, version: int) -> float:
    """Largest difference between the engine's log-probs and the trainer's, in nats; infinite where the engine gives
    those of another version, or none. Raises EngineFailure."""
    [scored] = await engine.score([canary.token_ids])
    if scored.version != version or len(scored.logprobs) != len(canary.logprobs):
        return math.inf
    differences = [abs(ours - theirs) for ours, theirs in zip(scored.logprobs, canary.logprobs, strict=True)]
    return max(math.inf if math.isnan(one) else one for one in differences)
