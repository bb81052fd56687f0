"""The identities of KL-regularised reward maximisation, exactly, on a small discrete world.

With pi* = pi_ref exp(r / beta) / Z and J(pi) = E_pi[r] - beta KL(pi || pi_ref):
    beta KL(pi || pi*) = beta log Z - J(pi),   so pi* maximises J, and minimising KL to pi* maximises J.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from differentiable import reverse_kl
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.objectives.bco import RewardShift, bco_loss, class_weights, implicit_reward

World = tuple[np.ndarray, np.ndarray, float]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Logits of pi_ref over a few responses, their rewards, and beta."""
    size = draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.normal(size=size) * 2, rng.integers(0, 2, size).astype(float), draw(st.sampled_from([0.1, 0.5, 1.0]))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def objective(pi: np.ndarray, reference: np.ndarray, reward: np.ndarray, beta: float) -> float:
    return float(pi @ reward - beta * (pi * (np.log(pi) - np.log(reference))).sum())


@given(worlds(), st.integers(0, 2**31))
@settings(deadline=None)
def test_kl_to_the_posterior_is_what_the_objective_lacks_to_its_maximum(world: World, seed: int) -> None:
    logits, reward, beta = world
    reference = softmax(logits)
    log_z = np.log((reference * np.exp(reward / beta)).sum())
    other = np.random.default_rng(seed).normal(size=len(logits))
    kl = reverse_kl(torch.tensor(other)[None], torch.tensor(logits + reward / beta)[None]).item()
    lacking = beta * log_z - objective(softmax(other), reference, reward, beta)
    np.testing.assert_allclose(beta * kl, lacking, rtol=1e-9, atol=1e-12)
    assert lacking >= -1e-12


@given(worlds())
@settings(deadline=None)
def test_the_posterior_reaches_the_maximum(world: World) -> None:
    logits, reward, beta = world
    reference = softmax(logits)
    best = objective(softmax(logits + reward / beta), reference, reward, beta)
    np.testing.assert_allclose(best, beta * np.log((reference * np.exp(reward / beta)).sum()), rtol=1e-9, atol=1e-12)


@given(worlds(), st.integers(0, 2**31))
@settings(deadline=None)
def test_descending_the_kl_to_the_posterior_is_ascending_the_objective(world: World, seed: int) -> None:
    logits, reward, beta = world
    pi = torch.tensor(np.random.default_rng(seed).normal(size=(1, len(logits))), requires_grad=True)
    reverse_kl(pi, torch.tensor(logits + reward / beta)[None]).sum().backward()
    p, reference = softmax(pi.detach().numpy()[0]), softmax(logits)
    slope = reward - beta * (np.log(p) - np.log(reference))
    ascent = p * (slope - p @ slope)
    assert pi.grad is not None
    np.testing.assert_allclose(-beta * pi.grad.numpy()[0], ascent, rtol=1e-7, atol=1e-11)


@given(worlds())
@settings(deadline=None)
def test_the_posterior_s_implicit_reward_is_the_reward_up_to_a_constant(world: World) -> None:
    logits, reward, beta = world
    posterior, reference = (torch.tensor(softmax(x)).log() for x in (logits + reward / beta, logits))
    implied = implicit_reward(posterior, reference, beta).numpy()
    np.testing.assert_allclose(implied - implied[0], reward - reward[0], atol=1e-9)


@given(worlds())
@settings(deadline=None)
def test_from_the_prior_the_first_e_step_climbs_the_objective_exactly(world: World) -> None:
    """In expectation over the student's own samples, -grad BCO = beta grad J at q = prior."""
    prior, reward, beta = world
    logits = torch.tensor(prior, requires_grad=True)
    log_q, log_prior = torch.log_softmax(logits, -1), torch.log_softmax(torch.tensor(prior), -1)
    success = torch.tensor(reward == 1)
    natural = class_weights(success, "natural").double()
    often = natural * len(reward) * log_prior.exp()
    implied = implicit_reward(log_q, log_prior, beta)
    bco_loss(implied, success, RewardShift(0.1).update(implied, success), often).backward()
    p = softmax(prior)
    assert logits.grad is not None
    np.testing.assert_allclose(-logits.grad.numpy(), beta * p * (reward - p @ reward), rtol=1e-6, atol=1e-9)


def test_repeated_small_e_steps_bring_the_teacher_nearer_to_the_posterior() -> None:
    reference = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    success = torch.tensor([False, True, False, True, False])
    beta = 0.5
    posterior = torch.log_softmax(reference.log() + success.double() / beta, -1)
    logits = reference.log().clone().requires_grad_(True)
    optimizer = torch.optim.SGD([logits], lr=0.5)
    shift = RewardShift(0.1)
    distances = []
    for _ in range(25):
        log_q = torch.log_softmax(logits, -1)
        distances.append(reverse_kl(logits.detach()[None], posterior[None]).item())
        implied = implicit_reward(log_q, reference.log(), beta)
        loss = bco_loss(implied, success, shift.update(implied, success), reference)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 0.7 * distances[0]
