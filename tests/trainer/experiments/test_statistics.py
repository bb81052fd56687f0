"""Statistics against closed forms, printed tables and invariances."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.experiments.statistics import (
    Estimate,
    area,
    estimate,
    first_reaching,
    overlap,
    t_quantile,
    t_within,
)

# Two-sided 95 % points as printed in tables of Student's t.
TABLE = {3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 9: 2.262, 10: 2.228, 20: 2.086, 29: 2.045, 60: 2.000, 120: 1.980}
shares = st.floats(0, 1)


@given(st.floats(0, 50))
def test_one_degree_of_freedom_is_the_cauchy_distribution(t: float) -> None:
    assert t_within(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-12)


@given(st.floats(0, 50))
def test_two_and_three_degrees_of_freedom_have_their_closed_forms(t: float) -> None:
    assert t_within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-12)
    x = t / math.sqrt(3)
    assert t_within(t, 3) == pytest.approx(2 / math.pi * (x / (1 + x * x) + math.atan(x)), abs=1e-12)


@pytest.mark.parametrize(("df", "quantile"), TABLE.items())
def test_quantiles_are_those_of_the_printed_table(df: int, quantile: float) -> None:
    assert t_quantile(df) == pytest.approx(quantile, abs=6e-4)


def test_the_first_two_quantiles_have_closed_forms() -> None:
    assert t_quantile(1) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-9)
    assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-9)


def test_an_interval_is_t_times_the_standard_error() -> None:
    # Values 1, 2, 3: standard deviation 1, t(2) = 4.3027.
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None and found.mean == 2.0 and found.n == 3
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, 1)
    assert estimate([]) is None


@given(st.lists(shares, min_size=2, max_size=8), st.floats(-5, 5), st.floats(0.1, 5))
def test_intervals_move_and_stretch_with_their_values(values: list[float], shift: float, scale: float) -> None:
    one, other = estimate(values), estimate([scale * v + shift for v in values])
    assert one and other and one.half_width is not None and other.half_width is not None
    assert other.mean == pytest.approx(scale * one.mean + shift, abs=1e-9)
    assert other.half_width == pytest.approx(scale * one.half_width, abs=1e-6)


def test_intervals_overlap_where_they_share_a_point() -> None:
    assert overlap(Estimate(0.5, 0.1, 3), Estimate(0.65, 0.1, 3)) is True
    assert overlap(Estimate(0.5, 0.1, 3), Estimate(0.75, 0.1, 3)) is False
    assert overlap(Estimate(0.5, None, 1), Estimate(0.5, 0.1, 3)) is None


def test_the_area_of_a_line_is_the_mean_of_its_ends() -> None:
    assert area([(0, 0.0), (1280, 1.0)]) == 0.5
    assert area([(0, 0.0), (100, 0.0), (100 + 1e-9, 1.0), (200, 1.0)]) == pytest.approx(0.5)


@given(shares, st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_the_area_of_a_constant_is_the_constant(height: float, gaps: list[int]) -> None:
    curve = [(float(sum(gaps[:i])), height) for i in range(len(gaps) + 1)]
    assert area(curve) == pytest.approx(height)


@given(st.lists(shares, min_size=2, max_size=8), st.data())
def test_a_point_on_the_curve_does_not_change_its_area(heights: list[float], data: st.DataObject) -> None:
    curve = [(float(i), y) for i, y in enumerate(heights)]
    i = data.draw(st.integers(0, len(curve) - 2))
    middle = (i + 0.5, (heights[i] + heights[i + 1]) / 2)
    assert area([*curve[: i + 1], middle, *curve[i + 1 :]]) == pytest.approx(area(curve), abs=1e-12)


def test_a_height_is_reached_at_the_first_point_that_has_it() -> None:
    curve = [(0, 0.0), (10, 0.4), (20, 0.6), (30, 0.5), (40, 0.7)]
    assert first_reaching(curve, 0.6) == 20
    assert first_reaching(curve, 0.71) is None
