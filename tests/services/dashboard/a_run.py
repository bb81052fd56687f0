"""A run directory for tests, written as the learner writes it: a record at a time, step files renamed into place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.settings import Settings
from trainer.disk import write_atomically
from trainer.run_directory import RunDirectory


def a_run(root: Path, name: str = "demo", **settings: Any) -> RunDirectory:
    """A new run that has done nothing yet."""
    tree = {"run": {"name": name, "dir": str(root), "steps": 8}, **settings}
    return RunDirectory(Settings.model_validate(tree))


def trajectory_id(run: RunDirectory, step: int, group: int, row: int) -> str:
    """As the collector names it."""
    return f"{run.identity.run_id}-s{step:06d}-g{group:03d}-r{row:02d}"


def answer(name: str = "code", text: str | None = "wrong", **fields: Any) -> dict[str, Any]:
    """What a source answered."""
    answered = {"status": "ok", "text": text, "latency_ms": 40.0, "source": {"name": name, "kind": "code"}}
    return {k: v for k, v in {**answered, **fields}.items() if v is not None}


def a_row(run: RunDirectory, step: int, group: int, row: int, **fields: Any) -> dict[str, Any]:
    """A line of a step's file; `fields` take the place of what it would be."""
    reward = fields.get("reward", float((step + group + row) % 3 == 0))
    return {
        "trajectory_id": trajectory_id(run, step, group, row),
        "group_id": trajectory_id(run, step, group, row).rsplit("-r", 1)[0],
        "task_id": f"task-{group}",
        "step": step,
        "late": False,
        "policy_version": step,
        "prompt": [{"role": "user", "content": f"question {group} of {step}"}],
        "response": f"attempt {row}",
        "finish_reason": "stop",
        "tokens": 3,
        "reward": reward,
        "success": None if reward is None else reward == 1.0,
        "feedback": [answer()],
        "m_step_teacher_prompt": f"question {group} of {step}, and: wrong",
        "e_step_teacher_prompt": None,
        "feedback_chars_cut": 0,
        **fields,
    }


def write_rows(run: RunDirectory, step: int, rows: list[dict[str, Any]]) -> None:
    """trajectories/step_N.jsonl, whole."""
    directory = run.path / "trajectories"
    directory.mkdir(exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(directory / f"step_{step:06d}.jsonl", "".join(lines))


def do_step(run: RunDirectory, step: int, *, groups: int = 2, samples: int = 3, **metrics: Any) -> None:
    """One training step, in the order the learner writes its files: rollouts, times, metrics."""
    write_rows(run, step, [a_row(run, step, g, r) for g in range(groups) for r in range(samples)])
    run.record_timings({"step": step, "wall_s": float(step + 1), "tokens_per_s": 100.0 + step, "seconds/step": 1.0})
    run.record({"kind": "step", "step": step, "steps": 8, "reward_mean": step / 10, "m_step/kl": 0.5, **metrics})


def evaluate(run: RunDirectory, step: int, student: float) -> None:
    """An evaluation after `step` steps."""
    run.record({"kind": "evaluation", "step": step, "student_accuracy": student, "teacher_accuracy": 0.5, "tasks": 20})
