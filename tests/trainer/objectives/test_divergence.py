"""The divergences against dense fp64 numpy twins and closed-form gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from differentiable import forward_kl, jsd, objective, reverse_kl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives import divergence as closed

Array = np.ndarray


def distribution(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    return np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0.0).sum(-1)


@st.composite
def logits_pair(draw: st.DrawFn) -> tuple[Array, Array, float]:
    """Student and teacher logits [tokens, vocabulary] in fp64 at some temperature, and alpha."""
    tokens, vocabulary = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    temperature = draw(st.sampled_from([0.3, 0.7, 1.0, 2.0]))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0]))
    s, t = (rng.normal(size=(tokens, vocabulary)) * scale / temperature for _ in range(2))
    return s, t, draw(st.floats(0.05, 0.95))


def value_and_gradient(function: Callable[[Tensor, Tensor], Tensor], s: Array, t: Array) -> tuple[Array, Array]:
    student, teacher = torch.tensor(s, requires_grad=True), torch.tensor(t, requires_grad=True)
    values = function(student, teacher)
    values.sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    return values.detach().numpy(), student.grad.numpy()


@given(logits_pair())
@settings(deadline=None)
def test_reverse_kl_and_its_gradient_are_the_closed_forms(case: tuple[Array, Array, float]) -> None:
    s, t, _ = case
    p, q = distribution(s), distribution(t)
    d = np.log(p) - np.log(q)
    expected = (p * d).sum(-1)
    value, gradient = value_and_gradient(reverse_kl, s, t)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, p * (d - expected[:, None]), rtol=1e-8, atol=1e-12)


@given(logits_pair())
@settings(deadline=None)
def test_forward_kl_and_its_gradient_are_the_closed_forms(case: tuple[Array, Array, float]) -> None:
    s, t, _ = case
    p, q = distribution(s), distribution(t)
    value, gradient = value_and_gradient(forward_kl, s, t)
    np.testing.assert_allclose(value, kl(q, p), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, p - q, rtol=1e-8, atol=1e-12)


@given(logits_pair())
@settings(deadline=None)
def test_jsd_and_its_gradient_are_the_closed_forms(case: tuple[Array, Array, float]) -> None:
    s, t, alpha = case
    p, q = distribution(s), distribution(t)
    m = (1 - alpha) * p + alpha * q
    value, gradient = value_and_gradient(lambda a, b: jsd(a, b, alpha), s, t)
    np.testing.assert_allclose(value, (1 - alpha) * kl(p, m) + alpha * kl(q, m), rtol=1e-8, atol=1e-12)
    # dJSD/dp = (1 - alpha) log(p/m), since the terms through m cancel; then the softmax Jacobian.
    g = (1 - alpha) * (np.log(p) - np.log(m))
    np.testing.assert_allclose(gradient, p * (g - (p * g).sum(-1, keepdims=True)), rtol=1e-7, atol=1e-12)


@given(logits_pair(), st.integers(1, 14))
@settings(deadline=None)
def test_the_divergence_over_the_top_k_is_that_of_a_dense_merge_of_the_rest(
    case: tuple[Array, Array, float], k: int
) -> None:
    s, t, _ = case
    p, q = distribution(s), distribution(t)
    expected = []
    for row_p, row_q in zip(p, q, strict=True):
        head = np.argsort(-row_p)[:k]
        rest = np.setdiff1d(np.arange(len(row_p)), head)
        merged = [np.append(r[head], r[rest].sum()) if len(rest) else r[head] for r in (row_p, row_q)]
        expected.append(merged)
    value = objective(closed.reverse_kl, k)(torch.tensor(s), torch.tensor(t))
    np.testing.assert_allclose(value, [kl(merged_p, merged_q) for merged_p, merged_q in expected], rtol=1e-7, atol=1e-9)


@given(st.integers(1, 4), st.integers(1, 3_000), st.integers(1, 8), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_top_k_by_groups_are_those_of_a_sort(tokens: int, vocabulary: int, k: int, seed: int) -> None:
    values = torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed))
    k = min(k, vocabulary)
    found = values.gather(-1, closed.top_k(values, k)).sort(-1, descending=True).values
    assert torch.equal(found, values.sort(-1, descending=True).values[:, :k])


@given(logits_pair(), st.integers(1, 10))
@settings(deadline=None)
def test_merging_tokens_never_raises_the_divergence(case: tuple[Array, Array, float], k: int) -> None:
    s, t = torch.tensor(case[0]), torch.tensor(case[1])
    assert (objective(closed.reverse_kl, k)(s, t) <= reverse_kl(s, t) + 1e-5).all()


@pytest.mark.parametrize("k", [7, 8, 1000])
def test_k_at_or_above_the_vocabulary_is_the_full_divergence(k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    s, t = (torch.randn(4, 7, generator=generator) for _ in range(2))
    torch.testing.assert_close(objective(closed.reverse_kl, k)(s, t), reverse_kl(s, t))


def test_the_gradient_of_a_merged_divergence_is_its_numerical_derivative() -> None:
    generator = torch.Generator().manual_seed(2)
    s, t = (torch.randn(3, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    s.requires_grad_(True)
    for divergence in (closed.reverse_kl, closed.forward_kl):
        assert torch.autograd.gradcheck(lambda x, d=divergence: objective(d, 4)(x, t), (s,))


DIVERGENCES = [reverse_kl, forward_kl, lambda s, t: jsd(s, t, 0.5), objective(closed.reverse_kl, 2)]


@pytest.mark.parametrize("index", range(len(DIVERGENCES)))
@pytest.mark.parametrize("magnitude", [100.0, 1e4, 1e30])
def test_extreme_logits_give_finite_values_and_gradients(index: int, magnitude: float) -> None:
    s = torch.tensor([[magnitude, 0.0, -magnitude, 1.0]], requires_grad=True)
    t = torch.tensor([[-magnitude, 0.0, magnitude, 1.0]])
    value = DIVERGENCES[index](s, t)
    value.sum().backward()
    assert s.grad is not None
    assert not torch.isnan(value).any() and (value >= -1e-6).all()
    assert not torch.isnan(s.grad).any()


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl])
def test_a_token_both_rule_out_adds_nothing_to_a_kl_or_its_gradient(
    divergence: Callable[[Tensor, Tensor], Tensor],
) -> None:
    generator = torch.Generator().manual_seed(3)
    s, t = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    masked_s, masked_t = (torch.cat([x, torch.full((2, 1), -torch.inf, dtype=x.dtype)], -1) for x in (s, t))
    s.requires_grad_(True)
    masked_s.requires_grad_(True)
    plain, masked = divergence(s, t), divergence(masked_s, masked_t)
    plain.sum().backward()
    masked.sum().backward()
    assert s.grad is not None and masked_s.grad is not None
    torch.testing.assert_close(masked, plain)
    torch.testing.assert_close(masked_s.grad[:, :5], s.grad)
    assert (masked_s.grad[:, 5] == 0).all()


@pytest.mark.parametrize("index", range(len(DIVERGENCES)))
def test_equal_distributions_have_no_divergence_and_no_gradient(index: int) -> None:
    s = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), requires_grad=True)
    value = DIVERGENCES[index](s, s.detach() + 3.0)
    value.sum().backward()
    assert s.grad is not None
    torch.testing.assert_close(value, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(s.grad, torch.zeros(3, 6), atol=1e-5, rtol=0)


def test_a_token_whose_tail_is_too_small_for_float32_has_the_value_and_slope_of_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    near = torch.randn(2, 6, generator=generator)
    # Beyond the three likeliest the first token has 130 nats less, and the second no more than others have.
    student, teacher = near.clone(), near + 0.1 * torch.randn(2, 6, generator=generator)
    student[0, 3:] -= 130
    teacher[0, 3:] -= 125
    found = [_over_top_3(student.to(dtype), teacher.to(dtype)) for dtype in (torch.float32, torch.float64)]
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-6)


def _over_top_3(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    return closed.over_top_k(closed.reverse_kl, log_p.exp(), log_p, log_q, 3)
