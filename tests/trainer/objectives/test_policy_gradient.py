"""GRPO's advantages, its clipped surrogate and the teacher's say in the advantages against numpy and exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from differentiable import reverse_kl
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.objectives.policy_gradient import (
    clipped_surrogate,
    group_advantages,
    outside_clip,
    reshaped,
    reweighted,
)

SIZES = st.floats(0.01, 2) | st.floats(-2, -0.01)
CLIPS = {"clip_low": 0.2, "clip_high": 0.28}

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
@settings(deadline=None)
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


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8), st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None)
def test_advantages_sum_to_zero_ignore_a_constant_and_scale_with_the_rewards(
    values: list[float], factor: float, constant: float
) -> None:
    rewards, group = torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.long)
    plain = group_advantages(rewards, group, normalise_std=False)
    moved = group_advantages(factor * rewards + constant, group, normalise_std=False)
    assert plain.sum().item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(moved, factor * plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("successes", [1, 2, 7])
def test_normalised_advantages_of_an_outcome_depend_on_the_share_of_successes_alone(
    successes: int, scale: float
) -> None:
    """With a share s of successes a success has sqrt((1 - s) / s) and a failure minus sqrt(s / (1 - s))."""
    success = torch.arange(8) < successes
    advantages = group_advantages(scale * success.double(), torch.zeros(8, dtype=torch.long), normalise_std=True)
    odds = (8 - successes) / successes
    expected = torch.where(success, math.sqrt(odds), -math.sqrt(1 / odds))
    torch.testing.assert_close(advantages, expected.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("nats", [-1e4, -90.0, 90.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_ratio_beyond_what_a_float_holds_gives_a_finite_loss_and_gradient(nats: float, advantage: float) -> None:
    logprobs = torch.tensor([nats], requires_grad=True)
    loss = clipped_surrogate(logprobs, torch.zeros(1), torch.tensor([advantage]), **CLIPS)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert torch.isfinite(loss).all() and torch.isfinite(logprobs.grad).all()


@pytest.mark.parametrize("ratio", [0.1, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.29, 5.0])
@pytest.mark.parametrize("advantage", [-1.5, 0.5])
def test_outside_the_clip_are_exactly_the_tokens_without_a_gradient(ratio: float, advantage: float) -> None:
    logprobs = torch.tensor([math.log(ratio) - 2], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([-2.0], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    clipped_surrogate(logprobs, old, advantages, **CLIPS).sum().backward()
    assert logprobs.grad is not None
    assert outside_clip(logprobs.detach(), old, advantages, **CLIPS).item() == (logprobs.grad.item() == 0)


@given(st.integers(2, 8), st.integers(0, 2**31), st.floats(0.1, 3))
@settings(deadline=None)
def test_reshaped_advantages_add_the_kl_s_gradient_in_expectation_over_the_student_s_samples(
    vocabulary: int, seed: int, weight: float
) -> None:
    """sum over y of pi(y) grad of the surrogate at A = log q - log pi is grad KL(pi || q)."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(1, vocabulary)), requires_grad=True)
    teacher = torch.tensor(rng.normal(size=(1, vocabulary)))
    log_pi, log_q = logits.log_softmax(-1)[0], teacher.log_softmax(-1)[0]
    advantages = reshaped(torch.zeros(vocabulary).double(), log_q - log_pi, weight=weight)
    losses = clipped_surrogate(log_pi, log_pi.detach(), advantages, **CLIPS)
    (got,) = torch.autograd.grad((log_pi.detach().exp() * losses).sum(), logits)
    (wanted,) = torch.autograd.grad(weight * reverse_kl(logits, teacher).sum(), logits)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-11)


tokens = st.lists(st.tuples(SIZES | st.just(0.0), st.floats(-5, 5)), min_size=1, max_size=8)


@given(tokens, st.floats(0, 1), st.floats(0.05, 0.95))
@settings(deadline=None)
def test_reweighted_advantages_are_the_formula_s_and_keep_their_sign(
    cases: list[tuple[float, float]], share: float, clip: float
) -> None:
    advantages, log_ratio = (np.array(x) for x in zip(*cases, strict=True))
    got = reweighted(torch.tensor(advantages), torch.tensor(log_ratio), share=share, clip=clip).numpy()
    responsible = np.where(advantages > 0, np.exp(log_ratio), np.exp(-log_ratio))
    scale = (1 - share) + share * np.clip(responsible, 1 - clip, 1 + clip)
    np.testing.assert_allclose(got, advantages * scale, rtol=1e-9, atol=1e-300)
    assert (np.sign(got) == np.sign(advantages)).all()


@pytest.mark.parametrize("log_ratio", [-math.inf, -1e4, 1e4, math.inf])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_token_the_teacher_rules_out_has_a_finite_reweighted_advantage(log_ratio: float, advantage: float) -> None:
    got = reweighted(torch.tensor([advantage]), torch.tensor([log_ratio]), share=0.5, clip=0.2).item()
    scale = 1 + (0.1 if log_ratio * advantage > 0 else -0.1)
    assert got == pytest.approx(advantage * scale)


def test_no_gradient_reaches_the_log_ratios_in_an_advantage() -> None:
    log_ratio = torch.tensor([0.3], requires_grad=True)
    for advantages in (
        reshaped(torch.ones(1), log_ratio, weight=1.0),
        reweighted(torch.ones(1), log_ratio, share=0.5, clip=0.2),
    ):
        assert not advantages.requires_grad
