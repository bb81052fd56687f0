"""Whether a policy's scores are what its model computes, tried once at the start on a few tokens.

An architecture may do more between hidden states and logits, or less with masks and positions, than `Policy.score`
knows; training on its log-probs would go wrong without a sign.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shared.errors import DataError
from trainer.loading import embeddings
from trainer.scores import Sequences

if TYPE_CHECKING:
    from trainer.policy import Policy

_LENGTHS = (5, 9)
"""Tokens of the rows: different, so that padding or packing shows."""
_TOLERANCE = {False: 2e-4, True: 5e-2}
"""Largest difference of a logit, as a share of the largest logit, in float32 and in bfloat16."""


def check_scores(policy: Policy) -> None:
    """Raises DataError unless `policy.score` and its head give the logits of the model's own forward pass."""
    draw = random.Random("check")
    tokens = embeddings(policy.network)
    rows = [[draw.randrange(tokens) for _ in range(min(length, policy.max_context))] for length in _LENGTHS]
    try:
        ours, theirs = _scored(policy, rows), _computed(policy, rows)
    except (AttributeError, TypeError) as error:
        raise _refused(policy, f"is not built as a body and an output head ({error})") from error
    if not theirs.isfinite().all():
        raise _refused(policy, "computes logits that are not finite: its weights are damaged")
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= _TOLERANCE[policy.autocast]:
        raise _refused(
            policy,
            f"computes logits that differ by {difference:.2g} of the largest from the trainer's: it does something "
            "after its output head, or in its attention, that is not known here; try model.attention=eager",
        )


def _scored(policy: Policy, rows: list[list[int]]) -> Tensor:
    """As training scores: with gradients, in one pass. Float32 [tokens, vocabulary]."""
    with torch.enable_grad():
        scores = policy.score(Sequences([row[:1] for row in rows], [row[1:] for row in rows]))
        return scores.logits(slice(None)).detach() * policy.temperature


@torch.no_grad()
def _computed(policy: Policy, rows: list[list[int]]) -> Tensor:
    """The model's own logits of the same tokens, each row by itself."""
    network: Any = policy.network
    with policy.compute_type():
        logits = [network(torch.tensor([row], device=policy.device), use_cache=False).logits[0, :-1] for row in rows]
    return torch.cat(logits).float()


def _refused(policy: Policy, reason: str) -> DataError:
    return DataError(
        f"model.path: {type(policy.network).__name__} cannot be trained here, since it {reason}.", field="model.path"
    )
