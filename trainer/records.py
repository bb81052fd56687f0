"""The lines of metrics.jsonl and timings.jsonl, and the summary of a run: pure functions of what happened."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from shared.protocol import RolloutGroup
from shared.settings import Settings
from shared.trajectory_queue import QueueDepth
from trainer.algorithms import Metrics
from trainer.batch import Batch
from trainer.evaluate import Evaluation
from trainer.run_directory import Record

_TIMING = "seconds/"
_COLLAPSE_BEST = 0.1
_COLLAPSE_STANDARD_ERRORS = 3.0
_COLLAPSE_WINDOW_STEPS = 5


def step_record(batch: Batch, groups: Sequence[RolloutGroup], metrics: Metrics, *, steps: int) -> Record:
    """One training step, without what the clock had a part in. Shares are of the rollouts that have an outcome."""
    rewards = [r.trajectory.reward for r in batch.fresh if r.trajectory.reward is not None]
    successes = [r.success for r in batch.fresh if r.success is not None]
    return {
        "kind": "step",
        "step": batch.step,
        "steps": steps,
        "reward_mean": sum(rewards) / len(rewards) if rewards else None,
        "success_rate": sum(successes) / len(successes) if successes else None,
        "prompts": len(groups),
        "rows": len(batch.fresh),
        "rows_late": len(batch.rows) - len(batch.fresh),
        "rows_without_outcome": len(batch.fresh) - len(successes),
        "tokens": _tokens(batch),
        **_lags(batch.step, groups),
        **{key: value for key, value in metrics.items() if not key.startswith(_TIMING)},
    }


def timings_record(
    batch: Batch, groups: Sequence[RolloutGroup], metrics: Metrics, depth: QueueDepth, *, steps: int, wall_s: float
) -> Record:
    """The times of one training step, in seconds, and the groups in the queue.

    A step's seconds are the learner's: waiting for its groups, learning, publishing the version before it. What the
    collector spent on them (`rollout`, `feedback`, and `collector_wait` for a policy or a prompt) is a part of the wait
    in lockstep, and goes on beside in overlapped mode.
    """
    seconds = {f"{_TIMING}{phase}": spent for phase, spent in groups[0].timings_s.items()}
    step_s = metrics["seconds/learn"] + metrics["seconds/publish"] + metrics["seconds/wait"]
    done = batch.step + 1
    return {
        "step": batch.step,
        "wall_s": wall_s,
        "eta_s": wall_s / done * (steps - done),
        "tokens_per_s": _tokens(batch) / step_s if step_s > 0 else 0.0,
        "queue/waiting": depth.waiting,
        "queue/pending": depth.pending,
        "seconds/step": step_s,
        **seconds,
        **{key: value for key, value in metrics.items() if key.startswith(_TIMING)},
    }


def evaluation_record(kind: Literal["evaluation", "gate"], evaluation: Evaluation, step: int) -> Record:
    """Accuracy of the policy after `step` training steps: held-out, or on training prompts for the gate."""
    return {
        "kind": kind,
        "step": step,
        "student_accuracy": evaluation.student_accuracy,
        "teacher_accuracy": evaluation.teacher_accuracy,
        "tasks": evaluation.tasks,
        "unjudged": evaluation.unjudged,
    }


def record_at(records: Sequence[Record], kind: Literal["evaluation", "gate"], step: int) -> Record | None:
    """The evaluation or gate after `step` training steps, if it was made."""
    return next((r for r in records if r["kind"] == kind and r["step"] == step), None)


def best_step(records: Sequence[Record]) -> int | None:
    """After how many steps held-out accuracy was highest, the first of equals; None before any was measured."""
    best = max(_held_out(records, "student_accuracy"), key=lambda point: point.accuracy, default=None)
    return None if best is None else best.step


def summary(settings: Settings, records: Sequence[Record], *, wall_s: float, rows_trained: int) -> Record:
    """What a finished run comes to; `records` hold evaluations before the first step and after the last.

    `best_accuracy` is the highest of all held-out evaluations and so chosen on them: compare runs by `accuracy_after`
    or `area_under_curve`, the mean held-out accuracy over the steps.
    """
    before, after = (record_at(records, "evaluation", step) for step in (0, settings.run.steps))
    assert before is not None and after is not None
    per_step = settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt
    accuracies = _held_out(records, "student_accuracy")
    best = max(accuracies, key=lambda point: point.accuracy, default=None)
    collapsed = collapse(records)
    return {
        "algorithm": settings.algorithm.name,
        "seed": settings.run.seed,
        "steps": settings.run.steps,
        "rollouts": settings.run.steps * per_step,
        "accuracy_before": before["student_accuracy"],
        "accuracy_after": after["student_accuracy"],
        "best_accuracy": best.accuracy if best else None,
        "best_step": best.step if best else None,
        "area_under_curve": _area_under_curve(accuracies),
        "teacher_accuracy_before": before["teacher_accuracy"],
        "teacher_accuracy_after": after["teacher_accuracy"],
        "wall_s": wall_s,
        "rows_trained": rows_trained,
        "optimizer_steps": int(sum(r.get("optimizer_steps", 0) for r in records if r["kind"] == "step")),
        "held_out_tasks": after["tasks"],
        "collapsed": collapsed,
        "notes": _notes(records, collapsed, rows_trained),
    }


class _Point(NamedTuple):
    """Accuracy on `tasks` tasks after `step` training steps."""

    step: int
    accuracy: float
    tasks: int


def collapse(records: Sequence[Record]) -> str | None:
    """A sentence that names the step, if accuracy fell below half of its best and had not recovered by the last record.

    The best must be at least 0.1, and the fall at least 3 binomial standard errors of the two task counts. Held-out
    accuracy decides; success in training (means over 5 steps) does where no held-out evaluation saw the best. Where
    the teacher fell at an earlier evaluation than the student, the sentence says so.
    """
    held_out = _held_out(records, "student_accuracy")
    if (fall := _fall(held_out)) is not None:
        return f"Collapsed: held-out accuracy fell {_from_to(*fall)}{_teacher_first(records, fall[1].step)}."
    fall = _fall(_training(records))
    if fall is None or (held_out and held_out[-1].accuracy >= fall[0].accuracy / 2):
        return None
    return f"Collapsed: success in training fell {_from_to(*fall)}{_teacher_first(records, fall[1].step)}."


def _fall(points: Sequence[_Point]) -> tuple[_Point, _Point] | None:
    """The best point, and the first after it from which on accuracy stayed below half; None if the last is no fall."""
    best = max(points, key=lambda point: point.accuracy, default=None)
    if best is None or best.accuracy < _COLLAPSE_BEST or not _fell(best, points[-1]):
        return None
    fallen = points[-1]
    for point in reversed(points):
        if point.accuracy >= best.accuracy / 2:
            break
        fallen = point if _fell(best, point) else fallen
    return best, fallen


def _fell(best: _Point, later: _Point) -> bool:
    """Below half, and more than noise: the standard error is that of equal shares, pooled."""
    tasks = best.tasks + later.tasks
    pooled = (best.accuracy * best.tasks + later.accuracy * later.tasks) / tasks
    error = math.sqrt(pooled * (1 - pooled) * (1 / best.tasks + 1 / later.tasks))
    fall = best.accuracy - later.accuracy
    return later.accuracy < best.accuracy / 2 and fall >= _COLLAPSE_STANDARD_ERRORS * error


def _from_to(best: _Point, fallen: _Point) -> str:
    return f"from {best.accuracy:.2f} (step {best.step}) to {fallen.accuracy:.2f} (step {fallen.step})"


def _teacher_first(records: Sequence[Record], student_step: int) -> str:
    fall = _fall(_held_out(records, "teacher_accuracy"))
    return f"; the teacher's fell first, {_from_to(*fall)}" if fall and fall[1].step < student_step else ""


def _held_out(records: Sequence[Record], who: Literal["student_accuracy", "teacher_accuracy"]) -> list[_Point]:
    known = [r for r in records if r["kind"] == "evaluation" and r[who] is not None]
    return [_Point(r["step"], r[who], r["tasks"]) for r in known]


def _training(records: Sequence[Record]) -> list[_Point]:
    """Success over windows of steps. Siblings succeed alike, so the prompts are counted and not the rollouts."""
    known = [r for r in records if r["kind"] == "step" and r["success_rate"] is not None]
    windows = [known[i : i + _COLLAPSE_WINDOW_STEPS] for i in range(len(known) - _COLLAPSE_WINDOW_STEPS + 1)]
    return [
        _Point(w[-1]["step"] + 1, sum(r["success_rate"] for r in w) / len(w), sum(r["prompts"] for r in w))
        for w in windows
    ]


def _area_under_curve(points: Sequence[_Point]) -> float | None:
    """Trapezoids below accuracy over steps, divided by the steps; None with fewer than two evaluations."""
    if len(points) < 2:
        return None
    area = sum((right.step - left.step) * (left.accuracy + right.accuracy) / 2 for left, right in pairwise(points))
    return area / (points[-1].step - points[0].step)


def _notes(records: Sequence[Record], collapsed: str | None, rows_trained: int) -> list[str]:
    notes = [collapsed] if collapsed is not None else []
    if rows_trained > 0:
        return notes
    if any(r.get("reward_mean") is not None for r in records):
        return [
            *notes,
            "Trained on nothing: outcomes came, but none that the algorithm could learn from (no text, no sibling that "
            "succeeded, or the same reward throughout every group).",
        ]
    return [
        *notes,
        "Trained on nothing: no rollout had an outcome or a text. Every feedback source abstained or failed.",
    ]


def _lags(step: int, groups: Sequence[RolloutGroup]) -> Record:
    """How many versions old the step's groups are: mean, maximum, and a histogram."""
    lags = Counter(step - group.policy_version for group in groups)
    mean = sum(lag * count for lag, count in lags.items()) / len(groups)
    return {"lag/mean": mean, "lag/max": max(lags), **{f"lag/{lag}": lags[lag] for lag in sorted(lags)}}


def _tokens(batch: Batch) -> int:
    return sum(len(row.response_ids) for row in batch.fresh)
