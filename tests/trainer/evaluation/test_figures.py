"""pass@k against counting every choice of k rollouts, and bootstrap intervals against closed forms and coverage."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.figures import default_ks, figure, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_choices_of_k_rollouts_that_hold_a_success(counts: tuple[int, int, int]) -> None:
    n, c, k = counts
    rollouts = [True] * c + [False] * (n - c)
    choices = list(itertools.combinations(rollouts, k))
    share = Fraction(sum(any(choice) for choice in choices), len(choices))
    assert pass_at_k(n, c, k) == pytest.approx(float(share), abs=1e-15)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_1_is_the_share_of_successes(counts: tuple[int, int]) -> None:
    n, c = counts
    assert pass_at_k(n, c, 1) == pytest.approx(c / n, abs=1e-12)


def test_pass_at_k_of_a_thousand_rollouts_is_finite_and_right() -> None:
    assert pass_at_k(1024, 1, 512) == pytest.approx(0.5)
    assert (pass_at_k(1024, 0, 512), pass_at_k(1024, 1024, 512)) == (0.0, 1.0)


def test_unless_asked_for_others_k_are_powers_of_4_and_the_samples() -> None:
    assert [default_ks(samples) for samples in (1, 4, 8, 16)] == [[], [4], [4, 8], [4, 16]]


def test_the_interval_of_two_tasks_is_what_all_their_resamples_give() -> None:
    # The four resamples of (0, 1) have the means 0, 1/2, 1/2 and 1: 25 % at each end is more than 2.5 %.
    found = figure([[0.0, 1.0]], seed=3)
    assert found is not None and (found.value, found.low, found.high, found.tasks) == (0.5, 0.0, 1.0, 2)


def test_the_interval_of_many_tasks_is_as_wide_as_the_normal_one() -> None:
    draw = random.Random(5)
    values = [draw.random() for _ in range(800)]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    found = figure([values], seed=0)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation / math.sqrt(len(values)), rel=0.08)


def test_strata_weigh_alike_and_each_is_resampled_within_itself() -> None:
    draw = random.Random(6)
    small, large = [draw.random() for _ in range(60)], [5 + 3 * draw.random() for _ in range(600)]
    found = figure([small, large], seed=0)
    assert found is not None and found.low is not None and found.high is not None
    means = [sum(values) / len(values) for values in (small, large)]
    assert found.value == pytest.approx(sum(means) / 2)
    spread = sum(
        sum((v - m) ** 2 for v in values) / len(values) ** 2 for values, m in zip((small, large), means, strict=True)
    )
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(spread) / 2, rel=0.08)


def test_intervals_hold_the_true_accuracy_about_as_often_as_they_say() -> None:
    """A task's own accuracy is uniform on [0, 1], with 4 rollouts of each of 60 tasks: the truth is 1/2."""
    draw = random.Random(7)
    held = 0
    for number in range(400):
        accuracies = [draw.random() for _ in range(60)]
        shares = [sum(draw.random() < accuracy for _ in range(4)) / 4 for accuracy in accuracies]
        found = figure([shares], seed=number)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    # 400 draws at 95 % have a standard deviation of 1.1 points.
    assert 0.92 <= held / 400 <= 0.98


def test_one_task_has_a_value_and_no_interval_and_none_has_no_figure() -> None:
    found = figure([[0.25]], seed=0)
    assert found is not None and (found.value, found.low, found.high) == (0.25, None, None)
    assert figure([], seed=0) is None and figure([[], [1.0]], seed=0) is None


def test_the_same_values_and_seed_give_the_same_interval_however_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [[draw / 7 for draw in range(8)]]
    whole = figure(values, seed=1)
    monkeypatch.setattr("trainer.evaluation.figures._DRAWS_AT_ONCE", 100)
    assert figure(values, seed=1) == whole
