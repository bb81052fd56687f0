"""What one run came to, read off its directory. Comparing runs is `figures.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import DataError
from trainer.disk import read_jsonl
from trainer.experiments.plan import Plan, Run
from trainer.experiments.statistics import Point, area
from trainer.run_directory import Record


@dataclass(frozen=True)
class Result:
    """A finished run. Curves are over rollouts; `panels` by key of the step records."""

    run: Run
    student: list[Point]
    teacher: list[Point]
    panels: dict[str, list[Point]]
    collapsed: bool
    optimizer_steps: int
    minutes: float

    @property
    def final(self) -> float:
        return self.student[-1][1]

    @property
    def best(self) -> float:
        return max(accuracy for _, accuracy in self.student)

    @property
    def area(self) -> float:
        return area(self.student)

    def metric(self, name: Literal["area", "final"]) -> float:
        return self.area if name == "area" else self.final


def read_results(plan: Plan) -> dict[str, Result]:
    """The finished runs of a plan, by name."""
    results = {run.name: read_result(run, plan.path(run), plan.experiment.panels) for run in plan.runs}
    return {name: result for name, result in results.items() if result is not None}


def read_result(run: Run, directory: Path, panels: tuple[str, ...] = ()) -> Result | None:
    """None while the run is not done. Raises DataError where nothing was judged."""
    summary_file = directory / "summary.json"
    if not summary_file.exists():
        return None
    summary: Record = json.loads(summary_file.read_text())
    records = read_jsonl(directory / "metrics.jsonl")
    student = _curve(records, "evaluation", "student_accuracy", run.rollouts_per_step)
    if not student:
        raise DataError(f"{directory} holds no held-out accuracy: none of its rollouts could be judged.")
    return Result(
        run=run,
        student=student,
        teacher=_curve(records, "evaluation", "teacher_accuracy", run.rollouts_per_step),
        panels={key: _curve(records, "step", key, run.rollouts_per_step) for key in panels},
        collapsed=summary["collapsed"] is not None,
        optimizer_steps=int(summary["optimizer_steps"]),
        minutes=summary["wall_s"] / 60,
    )


def _curve(records: list[Record], kind: str, key: str, rollouts_per_step: int) -> list[Point]:
    def known(value: Any) -> bool:
        return isinstance(value, int | float)

    return [(r["step"] * rollouts_per_step, float(r[key])) for r in records if r["kind"] == kind and known(r.get(key))]
