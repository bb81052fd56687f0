"""Group-relative policy optimisation (GRPO, arXiv 2402.03300; clip-higher from DAPO, arXiv 2503.14476), and how a
teacher's log-ratios may enter its advantages."""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0


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
    # The cap is where float32 is still finite: infinity times the zero gradient of a clipped ratio would be NaN.
    ratio = (logprobs - old_logprobs.detach()).clamp(max=80).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def outside_clip(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Which tokens the clip leaves without a gradient, bool [tokens]: those whose ratio has already moved beyond it
    in the direction of their advantage."""
    ratio = (logprobs - old_logprobs).exp()
    return torch.where(advantages > 0, ratio > 1 + clip_high, (advantages < 0) & (ratio < 1 - clip_low))


def reshaped(advantages: Tensor, log_ratio: Tensor, *, weight: float) -> Tensor:
    """A_t = A + weight sg(log q - log pi), [tokens]: the teacher's opinion of each token is added to the outcome's
    (VPD, arXiv 2605.15113, hybrid baselines)."""
    return advantages + weight * log_ratio.detach()


def reweighted(advantages: Tensor, log_ratio: Tensor, *, share: float, clip: float) -> Tensor:
    """A_t = A ((1 - share) + share clip((q/pi)^sign A, 1 - clip, 1 + clip)), [tokens] (RLSD, arXiv 2604.03128).

    The outcome keeps the sign; tokens that the informed teacher holds responsible for it count more.
    """
    # Bounded before the product: 0 times an infinite ratio would be NaN.
    bounded = log_ratio.detach().clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    scale = (advantages.sign() * bounded).exp().clamp(1 - clip, 1 + clip)
    return advantages * ((1 - share) + share * scale)
