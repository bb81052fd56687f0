"""The E-step's objective: unpaired preference optimisation against a moving prior (ALGORITHM section 2).

BCO: Jung et al., "Binary Classifier Optimization", arXiv 2404.04656; its use for the teacher: VPD, arXiv 2605.15113.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def implicit_reward(log_q: Tensor, log_prior: Tensor, beta: float | Tensor) -> Tensor:
    """beta (log q(y|x,C) - sg log pi(y|x)), [rows]; gradients flow through q alone. `beta` may be [rows] too."""
    return beta * (log_q - log_prior.detach())


def class_weights(success: Tensor, mode: Literal["natural", "balanced"]) -> Tensor:
    """The weight of each row's term, [rows]. `success` is bool [rows].

    natural: 1/N each, so that a class counts as often as it occurs. balanced: 1/n of the row's own class, the paper's
    sum of two class means. A class without rows has no term.
    """
    if mode == "natural":
        return torch.full(success.shape, 1.0 / max(len(success), 1), device=success.device)
    positives = success.sum().clamp(min=1)
    negatives = (~success).sum().clamp(min=1)
    return torch.where(success, 1.0 / positives, 1.0 / negatives)


def within_trust_region(log_ratio: Tensor, success: Tensor, nats: float) -> Tensor:
    """Which rows may still push, bool [rows]: not successes whose log q - log pi already rose by more than `nats`,
    nor failures whose fell by more."""
    return torch.where(success, log_ratio <= nats, log_ratio >= -nats)


def bco_loss(reward: Tensor, success: Tensor, delta: float, weight: Tensor) -> Tensor:
    """Weighted sum of -log sigmoid(r - delta) over successes and -log sigmoid(-(r - delta)) over failures; scalar."""
    signed = torch.where(success, reward - delta, delta - reward)
    return -(weight * logsigmoid(signed)).sum()


class RewardShift:
    """delta: half the sum of the two classes' exponentially averaged implicit rewards.

    Class-balanced, so that rare successes count as much as failures. Averaged with a rate, since a cumulative mean
    never forgets and the prior moves. A class not seen yet counts as 0, the implicit reward of the prior itself.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.means: dict[str, float] = {}

    @property
    def value(self) -> float:
        return 0.5 * (self.means.get("success", 0.0) + self.means.get("failure", 0.0))

    def update(self, reward: Tensor, success: Tensor) -> float:
        """Take in a batch, [rows] each, and return the new delta: it is updated before use."""
        for name, rows in (("success", success), ("failure", ~success)):
            if rows.any():
                mean = float(reward.detach()[rows].mean())
                previous = self.means.get(name, mean)
                self.means[name] = previous + self.rate * (mean - previous)
        return self.value

    def state_dict(self) -> dict[str, float]:
        return dict(self.means)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.means = dict(state)
