"""GRPO's advantages and clipped surrogate against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.objectives.policy_gradient import clipped_surrogate, group_advantages

rewards_by_group = st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), min_size=1, max_size=4)


@given(rewards_by_group, st.booleans())
@settings(deadline=None)
def test_advantages_are_those_of_each_group_alone_in_any_order(groups: list[list[float]], normalise: bool) -> None:
    flat = [(label, reward) for label, rewards in enumerate(groups) for reward in rewards]
    order = np.random.default_rng(0).permutation(len(flat))
    labels = torch.tensor([flat[i][0] for i in order])
    rewards = torch.tensor([flat[i][1] for i in order], dtype=torch.float64)
    advantages = group_advantages(rewards, labels, normalise_std=normalise).numpy()
    for label, values in enumerate(groups):
        own = np.array([flat[i][1] for i in order if flat[i][0] == label])
        expected = own - own.mean()
        if normalise:
            expected = expected / (own.std() + 1e-6)
        if len(set(values)) == 1:
            expected = np.zeros_like(own)
        np.testing.assert_allclose(advantages[labels.numpy() == label], expected, rtol=1e-6, atol=1e-9)


@given(st.floats(0, 1, width=32), st.integers(1, 9), st.booleans())
def test_a_group_whose_rewards_are_all_the_same_has_advantage_exactly_0(reward: float, n: int, normalise: bool) -> None:
    advantages = group_advantages(torch.full((n,), reward), torch.zeros(n, dtype=torch.long), normalise_std=normalise)
    assert (advantages == 0).all()


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-2, 2)), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_surrogate_and_its_gradient_are_the_closed_forms(cases: list[tuple[float, float]]) -> None:
    drift, advantage = (np.array(x) for x in zip(*cases, strict=True))
    logprobs = torch.tensor(drift - 2.0, requires_grad=True)
    old = torch.full((len(cases),), -2.0, dtype=torch.float64, requires_grad=True)
    loss = clipped_surrogate(logprobs, old, torch.tensor(advantage), clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    ratio = np.exp(drift)
    np.testing.assert_allclose(
        loss.detach(), -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage), rtol=1e-9, atol=1e-12
    )
    stopped = ((advantage > 0) & (ratio > 1.28)) | ((advantage < 0) & (ratio < 0.8))
    edge = np.isclose(ratio, 1.28) | np.isclose(ratio, 0.8)
    expected = np.where(stopped, 0.0, -ratio * advantage)
    assert logprobs.grad is not None and old.grad is None
    np.testing.assert_allclose(logprobs.grad.numpy()[~edge], expected[~edge], rtol=1e-9, atol=1e-12)


def test_on_policy_the_gradient_is_the_plain_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -0.5], requires_grad=True)
    advantages = torch.tensor([2.0, -1.0])
    clipped_surrogate(logprobs, logprobs.detach(), advantages, clip_low=0.2, clip_high=0.28).sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_an_unlikely_old_token_gives_a_large_but_clipped_gain() -> None:
    loss = clipped_surrogate(
        torch.tensor([0.0]), torch.tensor([-50.0]), torch.tensor([1.0]), clip_low=0.2, clip_high=0.28
    )
    assert loss.item() == pytest.approx(-1.28)
    assert math.isfinite(loss.item())
