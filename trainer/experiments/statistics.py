"""Means with their uncertainty, and figures of a learning curve. Pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""Rollouts, accuracy."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values, with the half width of its 95 % interval (None where n is 1)."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's 95 % interval of independent values; None where there is none."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, t_quantile(n - 1) * math.sqrt(variance / n), n)


def overlap(one: Estimate, other: Estimate) -> bool | None:
    """Whether the two intervals have a point in common; None where one of them has no interval."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.low <= other.high and other.low <= one.high


def t_quantile(df: int, confidence: float = 0.95) -> float:
    """t such that a Student variable of `df` degrees of freedom (at least 1) is within +-t with that chance."""
    low, high = 0.0, 1.0
    while t_within(high, df) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, df) < confidence else (low, middle)
    return (low + high) / 2


def t_within(t: float, df: int) -> float:
    """P(|T| <= t) for Student's T of `df` degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    cosine2 = math.cos(angle) ** 2
    odd = df % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    # Powers 1, 3, ..., df - 2 of the cosine for odd df, and 0, 2, ..., df - 2 for even df.
    for power in range(1 if odd else 0, df - 1, 2):
        total += term
        term *= cosine2 * (power + 1) / (power + 2)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def area(curve: Sequence[Point]) -> float:
    """Mean height of a curve over its length (trapezoids); between 0 and 1 for accuracies. At least one point."""
    length = curve[-1][0] - curve[0][0]
    if length == 0:
        return curve[-1][1]
    pairs = pairwise(curve)
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / length


def first_reaching(curve: Sequence[Point], height: float) -> float | None:
    """Where a point of the curve is first at least `height`; None where none is."""
    return next((x for x, y in curve if y >= height), None)
