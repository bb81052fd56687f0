"""The lines of metrics.jsonl and the summary of a run: pure functions of what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.protocol import RolloutGroup
from shared.settings import Settings
from shared.trajectory_queue import QueueDepth
from trainer.algorithms import Metrics
from trainer.batch import Batch
from trainer.evaluate import Evaluation
from trainer.run_directory import Record


def step_record(
    batch: Batch, groups: Sequence[RolloutGroup], metrics: Metrics, depth: QueueDepth, *, steps: int, wall_s: float
) -> Record:
    """One training step. Shares are of the rollouts that have an outcome; times are in seconds."""
    rewards = [r.trajectory.reward for r in batch.fresh if r.trajectory.reward is not None]
    successes = [r.success for r in batch.fresh if r.success is not None]
    tokens = sum(len(r.response_ids) for r in batch.fresh)
    timings = groups[0].timings_s
    step_s = metrics["seconds/learn"] + metrics["seconds/publish"] + sum(timings.values())
    done = batch.step + 1
    return {
        "kind": "step",
        "step": batch.step,
        "steps": steps,
        "wall_s": wall_s,
        "eta_s": wall_s / done * (steps - done),
        "reward_mean": sum(rewards) / len(rewards) if rewards else None,
        "success_rate": sum(successes) / len(successes) if successes else None,
        "rows": len(batch.fresh),
        "rows_late": len(batch.rows) - len(batch.fresh),
        "rows_without_outcome": len(batch.fresh) - len(successes),
        "tokens": tokens,
        "tokens_per_s": tokens / step_s if step_s > 0 else 0.0,
        "queue/waiting": depth.waiting,
        "queue/pending": depth.pending,
        "seconds/step": step_s,
        **{f"seconds/{phase}": seconds for phase, seconds in timings.items()},
        **metrics,
    }


def evaluation_record(evaluation: Evaluation, step: int) -> Record:
    """Held-out accuracy of the policy after `step` training steps."""
    return {
        "kind": "evaluation",
        "step": step,
        "student_accuracy": evaluation.student_accuracy,
        "teacher_accuracy": evaluation.teacher_accuracy,
        "tasks": evaluation.tasks,
        "unjudged": evaluation.unjudged,
    }


def summary(settings: Settings, records: Sequence[Record], *, wall_s: float, rows_trained: int) -> Record:
    """What a finished run comes to; `records` hold evaluations before the first step and after the last."""
    before, after = evaluation_at(records, 0), evaluation_at(records, settings.run.steps)
    assert before is not None and after is not None
    per_step = settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt
    return {
        "algorithm": settings.algorithm.name,
        "seed": settings.run.seed,
        "steps": settings.run.steps,
        "rollouts": settings.run.steps * per_step,
        "accuracy_before": before["student_accuracy"],
        "accuracy_after": after["student_accuracy"],
        "teacher_accuracy_before": before["teacher_accuracy"],
        "teacher_accuracy_after": after["teacher_accuracy"],
        "wall_s": wall_s,
        "rows_trained": rows_trained,
        "held_out_tasks": after["tasks"],
        "notes": _notes(records, rows_trained),
    }


def evaluation_at(records: Sequence[Record], step: int) -> Record | None:
    """The evaluation after `step` training steps, if it was made."""
    return next((r for r in records if r["kind"] == "evaluation" and r["step"] == step), None)


def _notes(records: Sequence[Mapping[str, object]], rows_trained: int) -> list[str]:
    if rows_trained > 0:
        return []
    if any(r.get("reward_mean") is not None for r in records):
        return [
            "Trained on nothing: outcomes came, but none that the algorithm could learn from (no text, no sibling that "
            "succeeded, or the same reward throughout every group)."
        ]
    return ["Trained on nothing: no rollout had an outcome or a text. Every feedback source abstained or failed."]
