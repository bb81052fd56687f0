"""The files of a run, written as a learner writes them, without one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.load_settings import public_settings
from shared.settings import Settings
from trainer.disk import write_atomically

RUN_ID = "demo-1a2b3c"
STARTED = 1_700_000_000
EVERY = 5


class WrittenRun:
    """A run's directory. Its figures are a function of the step, as in lockstep."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.step = 0
        (path / "settings.json").write_text(json.dumps(public_settings(Settings())))
        (path / "run.json").write_text(json.dumps({"run_id": RUN_ID, "name": "demo", "seed": 1, "algorithm": "vpd"}))
        os.utime(path / "run.json", (STARTED, STARTED))

    def go_on(self, steps: int, more: Mapping[str, float] | None = None) -> None:
        """Record so many more steps, with `more` figures, and the evaluations that come before them."""
        for _ in range(steps):
            self._evaluate()
            times = {"step": self.step, "wall_s": 2.0 * (self.step + 1), "tokens_per_s": 100.0}
            self._append("timings.jsonl", times | dict(more or {}))
            self._append("metrics.jsonl", step_record(self.step) | dict(more or {}))
            self.step += 1

    def go_back(self, step: int) -> None:
        """What a learner does first when it goes on from a checkpoint at `step`."""
        kept = [r for r in self.records() if r["step"] < step + (r["kind"] != "step")]
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in kept))
        self.step = step

    def finish(self) -> None:
        self._evaluate()
        (self.path / "summary.json").write_text("{}")

    def make_old(self, seconds: float) -> None:
        """As if nothing had been written for so long."""
        for file in self.path.iterdir():
            os.utime(file, (time.time() - seconds,) * 2)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def files(self) -> dict[str, bytes]:
        """What belongs to the learner."""
        names = ("run.json", "settings.json", "metrics.jsonl", "timings.jsonl")
        return {name: (self.path / name).read_bytes() for name in names}

    def _evaluate(self) -> None:
        if self.step % EVERY == 0 and not any(
            r["kind"] == "evaluation" and r["step"] == self.step for r in self._so_far()
        ):
            self._append("metrics.jsonl", evaluation_record(self.step))

    def _so_far(self) -> list[dict[str, Any]]:
        return self.records() if (self.path / "metrics.jsonl").exists() else []

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with (self.path / name).open("a") as out:
            out.write(json.dumps(record) + "\n")


def step_record(step: int) -> dict[str, Any]:
    return {"kind": "step", "step": step, "steps": 80, "reward_mean": step / 80, "m_step/kl": 0.5, "success_rate": None}


def evaluation_record(step: int) -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "student_accuracy": step / 100, "teacher_accuracy": 0.5, "tasks": 64}
