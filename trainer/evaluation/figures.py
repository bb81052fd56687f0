"""Estimates from counts of successes, with bootstrap intervals over tasks. Pure functions on numbers.

A task with n judged rollouts of which c succeeded counts c/n towards avg@k, and 1 - C(n-c, k) / C(n, k) towards
pass@k. Tasks are the independent draws: rollouts of one task are not, so it is tasks that are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2_000
_DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Figure:
    """A mean over `tasks` tasks with its 95 % percentile bootstrap interval (None: one task has no spread)."""

    value: float
    low: float | None
    high: float | None
    tasks: int


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of P(one of k rollouts succeeds) from c successes among n (Chen et al. 2021, eq. 1).

    Needs 0 <= c <= n and 1 <= k <= n.
    """
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def default_ks(samples: int) -> list[int]:
    """The k of pass@k that are told unless others are asked for: powers of 4 and `samples`; avg@k is pass@1."""
    powers = (4**exponent for exponent in range(1, 6))
    return sorted({k for k in powers if k < samples} | ({samples} if samples > 1 else set()))


def figure(strata: Sequence[Sequence[float]], *, seed: int) -> Figure | None:
    """The mean over strata of the mean within each; one stratum is a plain mean. None where a stratum is empty.

    The interval resamples the values of each stratum with replacement, `RESAMPLES` times (Efron's percentile method).
    """
    if not strata or not all(strata):
        return None
    tasks = sum(map(len, strata))
    value = math.fsum(math.fsum(values) / len(values) for values in strata) / len(strata)
    if tasks == len(strata):
        return Figure(value, None, None, tasks)
    generator = np.random.default_rng(seed)
    means = sum(_resampled_means(np.asarray(values, dtype=float), generator) for values in strata) / len(strata)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail)).tolist()
    return Figure(value, low, high, tasks)


def _resampled_means(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Means [RESAMPLES] of draws with replacement of as many values [tasks], a bounded number of draws at a time."""
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    parts = []
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        parts.append(values[generator.integers(len(values), size=(rows, len(values)))].mean(axis=1))
    return np.concatenate(parts)
