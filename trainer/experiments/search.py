"""Which learning rate a search chose: the one with the best mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.experiments.plan import Cell, Plan
from trainer.experiments.results import Result
from trainer.experiments.statistics import Estimate, estimate


@dataclass(frozen=True)
class Tried:
    """One rate of a cell's search; `metric` is None where one of its runs is not done or failed."""

    rate: float
    metric: Estimate | None


def tried(plan: Plan, cell: Cell, results: Mapping[str, Result]) -> list[Tried]:
    """The rates of a cell's search, from small to large."""
    search = plan.experiment.search
    assert search is not None
    runs = plan.searched(cell)
    found = []
    for rate in sorted({run.rate for run in runs if run.rate is not None}):
        names = [run.name for run in runs if run.rate == rate]
        done = [results[name].metric(search.metric) for name in names if name in results]
        found.append(Tried(rate, estimate(done) if len(done) == len(names) else None))
    return found


def choose(rates: list[Tried]) -> float | None:
    """The rate with the best mean, the smallest of equals; rates without a metric are left out. None: none has one."""
    complete = [t for t in rates if t.metric is not None]
    best = max((t.metric.mean for t in complete if t.metric), default=None)
    return next((t.rate for t in complete if t.metric and t.metric.mean == best), None)
