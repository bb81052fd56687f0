"""Experiments and finished runs on disk, made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.experiments.file import Experiment
from trainer.experiments.plan import Plan, Run, make_plan

SMALL: dict[str, Any] = {
    "title": "A small experiment",
    "settings": {"run": {"steps": 10}},
    "arms": [
        {"name": "vpd", "label": "VPD", "settings": {"algorithm": {"name": "vpd"}}},
        {"name": "grpo", "settings": {"algorithm": {"name": "grpo", "learning_rate": 5e-3}}},
    ],
    "seeds": [{"seed": 1}, {"seed": 2}],
}
SEARCH = {"learning_rates": [1e-3, 2.5e-4], "seeds": [7, 8], "settings": {"run": {"steps": 5}}}


def plan(directory: Path, *, only: Sequence[str] = (), overrides: Sequence[str] = (), **changes: Any) -> Plan:
    """The plan of SMALL with changes."""
    experiment = Experiment.model_validate({**SMALL, **changes})
    return make_plan(experiment, directory, origin="small.toml", only=only, overrides=overrides)


def finish(found: Plan, run: Run, accuracies: Sequence[float], **summary: Any) -> None:
    """Write what a run leaves: an evaluation of each accuracy, evenly over its steps."""
    path = found.path(run)
    path.mkdir(parents=True)
    every = run.settings.run.steps / (len(accuracies) - 1)
    records = [
        {"kind": "evaluation", "step": round(i * every), "student_accuracy": a, "teacher_accuracy": a / 2}
        for i, a in enumerate(accuracies)
    ]
    steps = [{"kind": "step", "step": k, "e_step/margin": float(k)} for k in range(run.settings.run.steps)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records, *steps]))
    (path / "summary.json").write_text(json.dumps({"wall_s": 90.0, "collapsed": None, "optimizer_steps": 8, **summary}))
