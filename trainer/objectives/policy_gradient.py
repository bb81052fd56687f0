"""Group-relative policy optimisation (GRPO, arXiv 2402.03300; clip-higher from DAPO, arXiv 2503.14476)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, groups: Tensor, *, normalise_std: bool) -> Tensor:
    """A = r - mean of its group, divided by the group's standard deviation if asked, [rows].

    `rewards` [rows] float, `groups` [rows] integer labels. A group whose rewards are all the same has advantage 0.
    """
    advantages = torch.zeros_like(rewards)
    for label in groups.unique():
        rows = groups == label
        if (rewards[rows] == rewards[rows][0]).all():
            continue  # the rounding of a mean must not become an advantage
        centred = rewards[rows] - rewards[rows].mean()
        if normalise_std:
            centred = centred / (rewards[rows].std(unbiased=False) + 1e-6)
        advantages[rows] = centred
    return advantages


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), [tokens]; gradients flow through `logprobs`."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)
