"""BCO against closed forms in fp64: value, gradient, weights, trust region, and the shift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.objectives.bco import RewardShift, bco_loss, class_weights, implicit_reward, within_trust_region

BETA = 0.1


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log q, log prior and success of 1 to 9 rows."""
    count = draw(st.integers(1, 9))
    number = st.floats(-60, 0, allow_nan=False, width=32)
    log_q = np.array(draw(st.lists(number, min_size=count, max_size=count)))
    prior = np.array(draw(st.lists(number, min_size=count, max_size=count)))
    success = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return log_q, prior, success


def closed_form(reward: np.ndarray, success: np.ndarray, delta: float, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its derivative by each reward: -w sigmoid(-(r - delta)) for a success, w sigmoid(r - delta) else."""
    value, slope = 0.0, np.zeros_like(reward)
    for i, r in enumerate(reward):
        z = r - delta if success[i] else delta - r
        value += weight[i] * (math.log1p(math.exp(-abs(z))) + max(-z, 0.0))
        slope[i] = (-1 if success[i] else 1) * weight[i] / (1 + math.exp(z))
    return value, slope


@given(rows(), st.floats(-3, 3), st.sampled_from(["natural", "balanced"]))
@settings(deadline=None, max_examples=80)
def test_loss_and_gradient_are_the_closed_forms(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], delta: float, mode: str
) -> None:
    log_q_values, prior_values, successes = case
    log_q = torch.tensor(log_q_values, requires_grad=True)
    success = torch.tensor(successes)
    weight = class_weights(success, mode).double()  # type: ignore[arg-type]
    reward = implicit_reward(log_q, torch.tensor(prior_values), BETA)
    loss = bco_loss(reward, success, delta, weight)
    loss.backward()
    value, slope = closed_form(BETA * (log_q_values - prior_values), successes, delta, weight.numpy())
    np.testing.assert_allclose(loss.item(), value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(log_q.grad, BETA * slope, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_each_row_has_the_sign_of_its_outcome() -> None:
    log_q = torch.tensor([-5.0, -5.0], requires_grad=True)
    success = torch.tensor([True, False])
    bco_loss(implicit_reward(log_q, torch.zeros(2), BETA), success, 0.0, torch.ones(2)).backward()
    assert log_q.grad is not None
    assert log_q.grad[0] < 0 < log_q.grad[1]


def test_no_gradient_reaches_the_reference() -> None:
    shared = torch.tensor([-3.0, -4.0], requires_grad=True)
    reward = implicit_reward(torch.tensor([-2.0, -2.5], requires_grad=True), 2 * shared, BETA)
    bco_loss(reward, torch.tensor([True, False]), 0.1, torch.ones(2)).backward()
    assert shared.grad is None


@pytest.mark.parametrize("nats", [1e4, 1e30])
def test_extreme_rewards_give_finite_losses_and_gradients(nats: float) -> None:
    log_q = torch.tensor([nats, -nats, nats, -nats], requires_grad=True)
    success = torch.tensor([True, True, False, False])
    loss = bco_loss(implicit_reward(log_q, torch.zeros(4), BETA), success, 0.0, torch.full((4,), 0.25))
    loss.backward()
    assert log_q.grad is not None
    assert torch.isfinite(loss)
    torch.testing.assert_close(log_q.grad, torch.tensor([0.0, -0.025, 0.025, 0.0]))


def test_beta_may_differ_by_row() -> None:
    log_q, prior = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -3.0])
    torch.testing.assert_close(implicit_reward(log_q, prior, torch.tensor([0.5, 0.25])), torch.tensor([1.0, 0.25]))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
@settings(deadline=None)
def test_balanced_weights_make_two_class_means_and_natural_ones_the_mean_of_all(outcomes: list[bool]) -> None:
    success = torch.tensor(outcomes)
    balanced, natural = class_weights(success, "balanced"), class_weights(success, "natural")
    for rows_of_class in (success, ~success):
        if rows_of_class.any():
            assert balanced[rows_of_class].sum().item() == pytest.approx(1.0)
    assert natural.sum().item() == pytest.approx(1.0)
    assert natural.unique().numel() == 1


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.booleans()), min_size=1), st.floats(0.5, 4, width=32))
@settings(deadline=None)
def test_the_trust_region_stops_exactly_the_rows_that_already_moved_too_far(
    cases: list[tuple[float, bool]], nats: float
) -> None:
    lift, success = torch.tensor([c[0] for c in cases]), torch.tensor([c[1] for c in cases])
    allowed = within_trust_region(lift, success, nats).tolist()
    assert allowed == [
        (x <= nats) if ok else (x >= -nats) for x, ok in zip(lift.tolist(), success.tolist(), strict=True)
    ]


def test_delta_starts_at_half_the_sum_of_the_class_means_however_rare_a_class_is() -> None:
    shift = RewardShift(0.1)
    success = torch.tensor([True] + [False] * 9)
    assert shift.update(torch.tensor([1.0] + [-3.0] * 9), success) == pytest.approx(-1.0)


def test_delta_is_an_exponential_average_of_each_class() -> None:
    shift = RewardShift(0.25)
    batches = [([2.0, 0.0], [True, False]), ([4.0, -2.0], [True, False]), ([0.5], [True])]
    positive, negative = 2.0, 0.0
    shift.update(torch.tensor(batches[0][0]), torch.tensor(batches[0][1]))
    positive, negative = 0.75 * positive + 0.25 * 4.0, 0.75 * negative + 0.25 * -2.0
    assert shift.update(torch.tensor(batches[1][0]), torch.tensor(batches[1][1])) == pytest.approx(
        0.5 * (positive + negative)
    )
    positive = 0.75 * positive + 0.25 * 0.5
    assert shift.update(torch.tensor(batches[2][0]), torch.tensor(batches[2][1])) == pytest.approx(
        0.5 * (positive + negative)
    )


def test_a_class_not_seen_yet_counts_as_the_prior_itself() -> None:
    assert RewardShift(0.1).update(torch.tensor([-4.0, -2.0]), torch.tensor([False, False])) == pytest.approx(-1.5)


def test_a_restored_shift_goes_on_where_it_was() -> None:
    success = torch.tensor([True, False])
    first = RewardShift(0.3)
    first.update(torch.tensor([1.0, -1.5]), success)
    second = RewardShift(0.3)
    second.load_state_dict(first.state_dict())
    later = torch.tensor([0.25, -3.0])
    assert second.update(later, success) == first.update(later, success)
