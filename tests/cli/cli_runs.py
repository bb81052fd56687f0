"""Run directories for tests of the commands that read them, written by what the learner writes them with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_builders import group, said, trajectory

from shared.protocol import Feedback, RolloutGroup
from shared.settings import Settings, TeacherPromptSettings
from trainer.batch import BatchBuilder
from trainer.ledger import Ledger
from trainer.run_directory import RunDirectory
from trainer.trajectory_records import trajectory_records

ANSWER = "x = lib.double(x)"


def a_run(root: Path, name: str = "demo", *, steps: int = 8) -> RunDirectory:
    """A new run below `root`, that has done nothing; its critiques would be in `root`/human.sqlite3."""
    human = {"database": str(root / "human.sqlite3")}
    tree = {"run": {"name": name, "dir": str(root), "steps": steps}, "human_feedback": human}
    return RunDirectory(Settings.model_validate(tree))


def id_of(run: RunDirectory, step: int, row: int) -> str:
    """Of the rollout `row` of the only prompt of a step."""
    return f"{run.identity.run_id}-s{step:06d}-g000-r{row:02d}"


def a_group(
    run: RunDirectory, step: int, rewards: Sequence[float | None], feedback: Sequence[Feedback]
) -> RolloutGroup:
    """A prompt whose rollouts have these rewards, all with the same feedback."""
    rows = [
        trajectory(
            i,
            group=id_of(run, step, 0).rpartition("-r")[0],
            text=f"{ANSWER}  # {i}",
            success=None if reward is None else reward == 1,
            feedback=feedback,
        ).model_copy(update={"reward": reward})
        for i, reward in enumerate(rewards)
    ]
    return group(rows, index=step, step=step, question=f"question of {step}")


def do_step(
    run: RunDirectory,
    step: int,
    rewards: Sequence[float | None] = (0.0, 0.0),
    *,
    feedback: Sequence[Feedback] = (said("wrong name"),),
    late: Sequence[tuple[RolloutGroup, str]] = (),
    change: dict[str, Any] | None = None,
) -> RolloutGroup:
    """What a step leaves; each rollout's tokens are `x = `, `lib.`, `double` and the rest. `change` takes the place of
    fields of the first row."""
    made = a_group(run, step, rewards, feedback)
    builder = BatchBuilder(
        TeacherPromptSettings(), render=lambda _: [1], max_context=10_000, seed=0, shadow=frozenset()
    )
    batch = builder.build(step, [made], late)
    records = list(trajectory_records(batch, {}, object()))
    for record in records:
        record |= {"token_ends": [4, 8, 14, len(record["response"])], "token_lift": [0.0, 0.5, -2.25, 0.25]}
    records[0] |= change or {}
    run.write_trajectories(step, records)
    Ledger(run.path / "ledger.jsonl").step(step, [made], "digest")
    run.record_timings({"step": step, "wall_s": 9.0, "eta_s": 75.0, "queue/waiting": 2, "queue/pending": 16})
    run.record({"kind": "step", "step": step, "steps": 8, "reward_mean": 0.5})
    return made


def evaluate(run: RunDirectory, step: int, accuracy: float) -> None:
    """A held-out evaluation after `step` steps."""
    run.record({"kind": "evaluation", "step": step, "student_accuracy": accuracy, "teacher_accuracy": 0.9, "tasks": 9})
