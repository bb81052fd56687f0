"""All figures of an experiment, as the JSON values of report.json: by condition and arm, searches, pairs of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from trainer.experiments.file import Arm, Condition
from trainer.experiments.plan import Plan
from trainer.experiments.results import Result
from trainer.experiments.search import choose, tried
from trainer.experiments.statistics import Estimate, Point, estimate, first_reaching, overlap

SHARE_OF_BEST = 0.8
Values = dict[str, Any]


def figures(plan: Plan, results: Mapping[str, Result]) -> Values:
    """What the finished runs come to; runs that are not done are named under `missing`."""
    experiment = plan.experiment
    return {
        "title": experiment.title,
        "figure": experiment.figure,
        "question": experiment.question,
        "conditions": [_condition(plan, condition, results) for condition in experiment.conditions],
        "search": _searches(plan, results),
        "missing": [run.name for run in plan.runs if run.name not in results],
    }


def _condition(plan: Plan, condition: Condition, results: Mapping[str, Result]) -> Values:
    experiment = plan.experiment
    arms = [arm for arm in experiment.arms if condition in experiment.conditions_of(arm)]
    done = {
        arm.name: [results[run.name] for run in plan.of(condition.name, arm.name) if run.name in results]
        for arm in arms
    }
    finals = [mean.mean for runs in done.values() if (mean := estimate([r.final for r in runs]))]
    threshold = SHARE_OF_BEST * max(finals) if any(finals) else None
    return {
        "name": condition.name,
        "label": condition.label or condition.name,
        "threshold": threshold,
        "arms": [_arm(plan, arm, done[arm.name], threshold) for arm in arms],
        "pairs": [_pair(a, b, done[a.name], done[b.name]) for a, b in combinations(arms, 2)],
    }


def _arm(plan: Plan, arm: Arm, runs: Sequence[Result], threshold: float | None) -> Values:
    return {
        "name": arm.name,
        "label": arm.label or arm.name,
        "seeds": [r.run.seed for r in runs],
        "final": _mean([r.final for r in runs]),
        "best": _mean([r.best for r in runs]),
        "area": _mean([r.area for r in runs]),
        "rollouts_to_threshold": _reaching(runs, threshold),
        "collapsed": [r.run.name for r in runs if r.collapsed],
        "optimizer_steps": _mean([r.optimizer_steps for r in runs]),
        "minutes": _mean([r.minutes for r in runs]),
        "student": mean_curve([r.student for r in runs]),
        "teacher": mean_curve([r.teacher for r in runs]),
        "panels": {key: mean_curve([r.panels[key] for r in runs]) for key in plan.experiment.panels},
        "runs": [
            {"name": r.run.name, "final": r.final, "best": r.best, "area": r.area, "minutes": r.minutes} for r in runs
        ],
    }


def _reaching(runs: Sequence[Result], threshold: float | None) -> Values | None:
    """Rollouts until the held-out curve is at the threshold; a run that never is counts with its whole length."""
    if threshold is None or not runs:
        return None
    firsts = [first_reaching(r.student, threshold) for r in runs]
    counted = [r.student[-1][0] if first is None else first for r, first in zip(runs, firsts, strict=True)]
    return {**(_mean(counted) or {}), "never": sum(first is None for first in firsts)}


def _pair(one: Arm, other: Arm, ones: Sequence[Result], others: Sequence[Result]) -> Values:
    """Areas of two arms: whether their intervals overlap, and their difference over the seeds both have."""
    a, b = estimate([r.area for r in ones]), estimate([r.area for r in others])
    by_seed = {r.run.seed: r.area for r in others}
    differences = [r.area - by_seed[r.run.seed] for r in ones if r.run.seed in by_seed]
    return {
        "arms": [one.name, other.name],
        "labels": [one.label or one.name, other.label or other.name],
        "areas": [_values(a), _values(b)],
        "overlap": None if a is None or b is None else overlap(a, b),
        "difference": _mean(differences),
    }


def _searches(plan: Plan, results: Mapping[str, Result]) -> list[Values]:
    search = plan.experiment.search
    cells = list(dict.fromkeys((run.condition, run.arm) for run in plan.runs if run.search))
    found = []
    for cell in cells:
        rates = tried(plan, cell, results)
        chosen = choose(rates)
        best = max((t.metric.mean for t in rates if t.metric), default=None)
        found.append(
            {
                "condition": cell[0],
                "arm": cell[1],
                "metric": search.metric if search else None,
                "rates": [{"rate": t.rate, "metric": _values(t.metric)} for t in rates],
                "chosen": chosen,
                "ties": sum(t.metric is not None and t.metric.mean == best for t in rates) - 1,
                # The best may lie outside the rates that were tried.
                "at_edge": len(rates) > 1 and chosen in (rates[0].rate, rates[-1].rate),
            }
        )
    return found


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Values]:
    """Mean and interval at every place where any of the curves has a point, over those that have one there."""
    places = sorted({x for curve in curves for x, _ in curve})
    at = [dict(curve) for curve in curves]
    return [{"rollouts": x, **(_mean([c[x] for c in at if x in c]) or {})} for x in places]


def _mean(values: Sequence[float]) -> Values | None:
    return _values(estimate(values))


def _values(one: Estimate | None) -> Values | None:
    return None if one is None else {"mean": one.mean, "low": one.low, "high": one.high, "n": one.n}
