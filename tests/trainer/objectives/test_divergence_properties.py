"""What every divergence must hold to, whatever the logits: bounds, invariances, low precision, and extreme logits."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from differentiable import Objective, jsd, objective
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from trainer_objectives import Array, Logits, jsd_of, kl, logits, softmax, value_and_gradient

from trainer.objectives import divergence as closed

ALPHA = 0.3


def even(student: Tensor, teacher: Tensor) -> Tensor:
    return jsd(student, teacher, 0.5)


CLOSED: dict[str, closed.Divergence] = {
    "reverse": closed.reverse_kl,
    "forward": closed.forward_kl,
    "jsd": partial(closed.jsd, alpha=0.5),
    "skewed": partial(closed.jsd, alpha=ALPHA),
}
DIVERGENCES: dict[str, Objective] = {name: objective(divergence) for name, divergence in CLOSED.items()}
BOUNDED = ["jsd", "skewed"]
NAMES = st.sampled_from(sorted(DIVERGENCES))


def twin(name: str, s: Array, t: Array) -> Array:
    """The divergence in float64 numpy, over all tokens of the vocabulary."""
    p, q = softmax(s), softmax(t)
    return {"reverse": kl(p, q), "forward": kl(q, p), "jsd": jsd_of(p, q, 0.5), "skewed": jsd_of(p, q, ALPHA)}[name]


def merged(name: str, k: int) -> Objective:
    return objective(CLOSED[name], k)


# ---------------------------------------------------------------------------------------------------------- bounds


@given(logits(), NAMES)
@settings(deadline=None, max_examples=60)
def test_no_divergence_is_negative(case: Logits, name: str) -> None:
    assert (DIVERGENCES[name](*case.tensors()) >= -1e-14).all()


@given(logits())
@settings(deadline=None, max_examples=60)
def test_the_even_jsd_is_symmetric_and_at_most_log_2(case: Logits) -> None:
    student, teacher = case.tensors()
    torch.testing.assert_close(even(student, teacher), even(teacher, student), rtol=1e-9, atol=1e-14)
    assert (even(student, teacher) <= math.log(2) + 1e-12).all()


@given(logits(), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=60)
def test_a_jsd_is_at_most_the_entropy_of_its_weights_and_swaps_with_them(case: Logits, alpha: float) -> None:
    student, teacher = case.tensors()
    value = jsd(student, teacher, alpha)
    assert (value <= -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha) + 1e-12).all()
    torch.testing.assert_close(value, jsd(teacher, student, 1 - alpha), rtol=1e-7, atol=1e-12)


def test_the_even_jsd_of_disjoint_distributions_is_log_2() -> None:
    student, teacher = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([[-torch.inf, -torch.inf, 0.0]])
    torch.testing.assert_close(even(student, teacher), torch.tensor([math.log(2)]))


@given(logits())
@settings(deadline=None, max_examples=60)
def test_pinsker_each_kl_is_at_least_half_the_squared_l1_distance(case: Logits) -> None:
    distance = np.abs(softmax(case.student) - softmax(case.teacher)).sum(-1)
    for name in ("reverse", "forward"):
        value = DIVERGENCES[name](*case.tensors()).detach().numpy()
        assert (value >= 0.5 * distance**2 - 1e-12).all()


@given(logits(), NAMES, st.integers(1, 11))
@settings(deadline=None, max_examples=60)
def test_merging_the_tail_never_raises_a_divergence_and_a_larger_head_never_lowers_it(
    case: Logits, name: str, k: int
) -> None:
    """Data processing inequality: the smaller head's buckets are sums of the larger one's."""
    student, teacher = case.tensors()
    smaller, larger, full = (d(student, teacher) for d in (merged(name, k), merged(name, k + 1), DIVERGENCES[name]))
    assert (smaller <= larger + 1e-12).all()
    assert (larger <= full + 1e-12).all()


@given(logits(), NAMES, st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_head_as_large_as_the_vocabulary_changes_neither_value_nor_gradient(
    case: Logits, name: str, more: int
) -> None:
    student, teacher = case.tensors()
    k = case.student.shape[-1] + more
    for got, wanted in zip(
        value_and_gradient(merged(name, k), student, teacher),
        value_and_gradient(DIVERGENCES[name], student, teacher),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-13)


# ----------------------------------------------------------------------------------------------------- invariances


@given(logits(), NAMES, st.none() | st.integers(1, 6), st.floats(-100, 100), st.floats(-100, 100))
@settings(deadline=None, max_examples=60)
def test_a_constant_added_to_the_logits_changes_neither_value_nor_gradient(
    case: Logits, name: str, k: int | None, a: float, b: float
) -> None:
    objective = DIVERGENCES[name] if k is None else merged(name, k)
    student, teacher = case.tensors()
    plain = value_and_gradient(objective, student, teacher)
    moved = value_and_gradient(objective, student + a, teacher + b)
    for got, wanted in zip(moved, plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-11)


@given(logits(), NAMES, st.none() | st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_the_order_of_the_vocabulary_does_not_matter(case: Logits, name: str, k: int | None, seed: int) -> None:
    objective = DIVERGENCES[name] if k is None else merged(name, k)
    order = np.random.default_rng(seed).permutation(case.student.shape[-1])
    shuffled = Logits(case.student[:, order], case.teacher[:, order], case.lengths)
    value, gradient = value_and_gradient(objective, *case.tensors())
    again, moved = value_and_gradient(objective, *shuffled.tensors())
    np.testing.assert_allclose(again, value, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(moved, gradient[:, order], rtol=1e-8, atol=1e-12)


@given(logits(), NAMES, st.none() | st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_the_gradient_of_each_token_sums_to_zero_over_the_vocabulary(case: Logits, name: str, k: int | None) -> None:
    _, gradient = value_and_gradient(DIVERGENCES[name] if k is None else merged(name, k), *case.tensors())
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-11)


@given(logits(), NAMES)
@settings(deadline=None, max_examples=60)
def test_a_token_s_value_and_gradient_do_not_depend_on_the_tokens_beside_it(case: Logits, name: str) -> None:
    student, teacher = case.tensors()
    value, gradient = value_and_gradient(DIVERGENCES[name], student, teacher)
    alone = [value_and_gradient(DIVERGENCES[name], student[i : i + 1], teacher[i : i + 1]) for i in range(len(student))]
    np.testing.assert_allclose(value, np.concatenate([v for v, _ in alone]), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gradient, np.concatenate([g for _, g in alone]), rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------------------------------------------- low precision

# Rounding of a log-probability: half a unit in the last place of a number as large as the logits.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


@given(logits(), NAMES, st.sampled_from(sorted(ROUNDING, key=str)))
@settings(deadline=None, max_examples=200)
def test_values_in_low_precision_differ_from_float64_by_a_few_roundings_of_the_logits(
    case: Logits, name: str, dtype: torch.dtype
) -> None:
    """The twin reads the rounded logits, so that only the divergence's own arithmetic is judged."""
    student, teacher = case.tensors(dtype)
    expected = twin(name, student.detach().double().numpy(), teacher.double().numpy())
    value = DIVERGENCES[name](student, teacher)
    assert value.dtype is dtype
    size = 1 + max(float(student.detach().abs().max()), float(teacher.abs().max()))
    np.testing.assert_allclose(value.detach().double().numpy(), expected, rtol=0, atol=16 * ROUNDING[dtype] * size)


# --------------------------------------------------------------------------------------------------- extreme logits

SIZES = [-100.0, 0.0, 1.0, 100.0]
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


@st.composite
def extreme_logits(draw: st.DrawFn, ruled_out: str = "neither", largest: float = 1e4) -> tuple[Array, Array]:
    """One token's logits up to `largest` in size; `ruled_out` = both or any: some are -inf in both or in either."""
    vocabulary = draw(st.integers(2, 7))
    size = st.sampled_from([*SIZES, largest, -largest])
    rows = [np.array(draw(st.lists(size, min_size=vocabulary, max_size=vocabulary))) for _ in range(2)]
    if ruled_out != "neither":
        masks = [draw(st.lists(st.booleans(), min_size=vocabulary, max_size=vocabulary)) for _ in range(2)]
        for row, mask in zip(rows, [masks[0], masks[0 if ruled_out == "both" else 1]], strict=True):
            assume(not all(mask))
            row[np.array(mask)] = -np.inf
    return rows[0][None], rows[1][None]


@given(st.sampled_from(["neither", "both"]).flatmap(extreme_logits), NAMES, st.none() | st.integers(1, 7), DTYPES)
@settings(deadline=None, max_examples=200)
def test_logits_of_1e4_and_tokens_that_both_rule_out_give_finite_values_and_gradients(
    case: tuple[Array, Array], name: str, k: int | None, dtype: torch.dtype
) -> None:
    student, teacher = (torch.tensor(x, dtype=dtype) for x in case)
    value, gradient = value_and_gradient(DIVERGENCES[name] if k is None else merged(name, k), student, teacher)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    assert (gradient[np.isneginf(case[0])] == 0).all()


@given(extreme_logits("any"), st.sampled_from(BOUNDED), st.none() | st.integers(1, 7), DTYPES)
@settings(deadline=None, max_examples=60)
def test_a_jsd_is_finite_with_its_gradient_whatever_either_rules_out(
    case: tuple[Array, Array], name: str, k: int | None, dtype: torch.dtype
) -> None:
    student, teacher = (torch.tensor(x, dtype=dtype) for x in case)
    value, gradient = value_and_gradient(DIVERGENCES[name] if k is None else merged(name, k), student, teacher)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


@given(extreme_logits("any", largest=200.0), NAMES)
@settings(deadline=None, max_examples=60)
def test_with_ruled_out_tokens_the_value_is_the_twin_s_also_where_that_is_infinite(
    case: tuple[Array, Array], name: str
) -> None:
    """At most 400 nats apart, so that the twin's probabilities do not underflow to 0."""
    value = DIVERGENCES[name](*(torch.tensor(x) for x in case))
    np.testing.assert_allclose(value.numpy(), twin(name, *case), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_where_the_student_s_whole_mass_is_in_the_head_the_gradient_is_the_full_divergence_s(name: str) -> None:
    student = torch.tensor([[2.0, 1.0, 0.5, -torch.inf, -torch.inf]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 1.0, -1.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    for got, wanted in zip(
        value_and_gradient(merged(name, 3), student, teacher),
        value_and_gradient(DIVERGENCES[name], student, teacher),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["reverse", "forward"])
def test_a_tail_that_only_one_of_them_rules_out_is_an_infinite_kl(name: str) -> None:
    """As over the whole vocabulary: a large finite number would pass for a divergence in the metrics."""
    head, both = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]]), torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    student, teacher = (head, both) if name == "forward" else (both, head)
    assert DIVERGENCES[name](student, teacher).isposinf().all()
    assert merged(name, 2)(student, teacher).isposinf().all()
