"""Weights & Biases: online with a key, else a run on disk for `wandb sync`.

Online, wandb's own process keeps what it cannot send and tries again, and a run that is taken up says which steps it
has. A run on disk is written anew by each process: it cannot be taken up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import wandb
from wandb.errors import UsageError

from trainer.trackers.rows import Row, TrackedRun

_QUIET = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "init_timeout": 30,
}
"""This process is not the one that trains: its output, code and use of the machine say nothing."""


class WandB:
    """See trainer.trackers.base.Tracker."""

    def __init__(self, project: str) -> None:
        self._project = project

    def open(self, run: TrackedRun, next_step: int) -> int:
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if mode == "offline":
            _forget_offline_runs(run.path / "wandb")
        self._run = wandb.init(
            project=self._project,
            id=run.run_id,
            name=run.run_id,
            dir=run.path,
            config=dict(run.settings),
            mode="offline" if mode == "offline" else "online",
            resume=None if mode == "offline" else "allow",
            settings=wandb.Settings(**_QUIET),
        )
        return 0 if mode == "offline" else int(self._run.step)

    def send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({**row.figures, "_timestamp": row.time}, step=row.step)

    def close(self, *, finished: bool) -> None:
        self._run.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        # Asks for nothing where there is no terminal.
        return bool(wandb.login())
    except UsageError:
        return False


def _forget_offline_runs(directory: Path) -> None:
    for old in directory.glob("offline-run-*"):
        shutil.rmtree(old, ignore_errors=True)
