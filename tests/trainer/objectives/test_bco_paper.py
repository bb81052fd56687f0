"""The E-step's loss against the formulas of BCO (arXiv 2404.04656), restated in float64 numpy.

    r(x, y) = beta log( q(y) / pi(y) );   delta = ( E_{y+} r + E_{y-} r ) / 2
    L_BCO   = - E_{y+} log sigmoid( r - delta ) - E_{y-} log sigmoid( -(r - delta) )

delta is a constant of the loss: nothing is differentiated through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives.bco import RewardShift, bco_loss, class_weights, implicit_reward

Array = np.ndarray


@dataclass(frozen=True)
class Responses:
    """Token log-probabilities of responses of different lengths under teacher and student, and their outcomes."""

    log_q: list[Array]
    log_pi: list[Array]
    success: Array
    beta: float


@st.composite
def responses(draw: st.DrawFn) -> Responses:
    """At least one success and one failure."""
    success = np.array(draw(st.permutations([True, False, *draw(st.lists(st.booleans(), max_size=5))])))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    lengths = rng.integers(1, draw(st.sampled_from([2, 40])), size=len(success), endpoint=True)
    log_q, log_pi = ([-rng.exponential(2.0, size=n) for n in lengths] for _ in range(2))
    return Responses(log_q, log_pi, success, draw(st.sampled_from([0.05, 0.1, 0.5])))


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def paper(case: Responses, delta: float | None = None) -> tuple[float, float, list[Array]]:
    """L_BCO, delta, and the loss's slope on each response's token log-probabilities under q."""
    r = case.beta * np.array([q.sum() - pi.sum() for q, pi in zip(case.log_q, case.log_pi, strict=True)])
    good, bad = case.success, ~case.success
    if delta is None:
        delta = 0.5 * (r[good].mean() + r[bad].mean())
    loss = np.logaddexp(0, -(r[good] - delta)).mean() + np.logaddexp(0, r[bad] - delta).mean()
    slope = np.where(good, -sigmoid(delta - r) / good.sum(), sigmoid(r - delta) / bad.sum())
    return loss, delta, [np.full_like(q, case.beta * s) for q, s in zip(case.log_q, slope, strict=True)]


def ours(case: Responses, *, rate: float = 0.1) -> tuple[float, float, list[Array]]:
    """The same of the E-step's functions on the first batch, whose delta is not averaged yet."""
    tokens = [torch.tensor(q, requires_grad=True) for q in case.log_q]
    log_q = torch.stack([t.sum() for t in tokens])
    log_pi = torch.tensor([pi.sum() for pi in case.log_pi])
    success = torch.tensor(case.success)
    reward = implicit_reward(log_q, log_pi, case.beta)
    delta = RewardShift(rate).update(reward, success)
    loss = bco_loss(reward, success, delta, class_weights(success, "balanced"))
    loss.backward()
    return loss.item(), delta, [t.grad.numpy() for t in tokens if t.grad is not None]


@given(responses(), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_the_first_e_step_has_the_paper_s_loss_delta_and_gradient(case: Responses, rate: float) -> None:
    loss, delta, gradients = ours(case, rate=rate)
    expected, expected_delta, slopes = paper(case)
    assert delta == pytest.approx(expected_delta, rel=1e-9, abs=1e-12)
    # The class weights are float32.
    assert loss == pytest.approx(expected, rel=1e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-12)


@given(responses())
@settings(deadline=None)
def test_the_gradient_is_the_loss_s_numerical_derivative_with_delta_held(case: Responses) -> None:
    _, delta, gradients = ours(case)
    step = 1e-5
    for row, gradient in enumerate(gradients):
        values = []
        for sign in (1, -1):
            moved = [q.copy() for q in case.log_q]
            moved[row][0] += sign * step
            values.append(paper(Responses(moved, case.log_pi, case.success, case.beta), delta)[0])
        assert gradient[0] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30))
@settings(deadline=None)
def test_the_loss_of_a_pair_bounds_its_dpo_loss_from_above_at_any_delta(won: float, lost: float, delta: float) -> None:
    """Theorem 1 of the paper: -log sigmoid(r+ - r-) is never more."""
    dpo = np.logaddexp(0, -(won - lost))
    assert pair_loss(won, lost, delta).item() >= dpo - 1e-12


@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(-5, 5))
@settings(deadline=None)
def test_delta_makes_the_bound_of_a_pair_as_tight_as_a_shift_can(won: float, lost: float, away: float) -> None:
    delta = RewardShift(0.5).update(torch.tensor([won, lost], dtype=torch.float64), torch.tensor([True, False]))
    assert pair_loss(won, lost, delta).item() <= pair_loss(won, lost, delta + away).item() + 1e-12


def pair_loss(won: float, lost: float, delta: float) -> Tensor:
    reward = torch.tensor([won, lost], dtype=torch.float64)
    return bco_loss(reward, torch.tensor([True, False]), delta, torch.ones(2, dtype=torch.float64))


@given(responses(), st.floats(-20, 20))
@settings(deadline=None)
def test_a_constant_in_the_implicit_reward_moves_delta_and_not_the_loss(case: Responses, nats: float) -> None:
    """The posterior's partition function is such a constant, and it cannot be computed."""
    moved = Responses(
        [np.append(q, nats) for q in case.log_q], [np.append(p, 0) for p in case.log_pi], case.success, 0.1
    )
    still = Responses(case.log_q, case.log_pi, case.success, 0.1)
    (loss, delta, _), (again, shifted, _) = ours(still), ours(moved)
    assert shifted - delta == pytest.approx(0.1 * nats, abs=1e-9)
    assert again == pytest.approx(loss, rel=1e-6)


@given(st.lists(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(deadline=None)
def test_delta_weighs_each_batch_of_a_class_by_its_age(batches: list[list[tuple[float, bool]]]) -> None:
    """(1 - rate)^n for the first that held the class, rate (1 - rate)^(later ones) for the others."""
    rate, shift = 0.3, RewardShift(0.3)
    for batch in batches:
        reward, success = (torch.tensor(x) for x in zip(*batch, strict=True))
        delta = shift.update(reward.double(), success)
    expected = 0.0
    for outcome in (True, False):
        seen = [[r for r, ok in batch if ok is outcome] for batch in batches]
        means = [math.fsum(rewards) / len(rewards) for rewards in seen if rewards]
        ages = range(len(means) - 1, -1, -1)
        weights = [(1 - rate) ** age * (rate if i else 1.0) for i, age in enumerate(ages)]
        expected += 0.5 * sum(w * m for w, m in zip(weights, means, strict=True))
    assert delta == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(st.integers(1, 20), st.booleans())
@settings(deadline=None)
def test_with_as_many_successes_as_failures_both_weightings_differ_by_a_factor_of_2_alone(n: int, first: bool) -> None:
    success = torch.tensor([first, not first] * n)
    torch.testing.assert_close(class_weights(success, "balanced"), 2 * class_weights(success, "natural"))
