"""A run's files: `runs/<name>/`. The learner alone writes here; people and the `vpd` command read.

run.json          identity of the run         metrics.jsonl      a line a step, an evaluation and a gate
settings.json     resolved settings           timings.jsonl      a line a step: seconds, rates, queue depth
checkpoints/      to resume from              ledger.jsonl       what was counted, dropped and saved
batches/          what each step trained on   trajectories/      step_000012.jsonl, readable
summary.json      written when it is done     policy/            versions published to inference
model/, curve.png the result                tracking.json      what trackers were sent

In lockstep on one machine, two runs with the same settings and seed write the same bytes into metrics.jsonl, also where
one was stopped and resumed. What depends on the clock or on other processes goes into timings.jsonl.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.errors import SettingsError, VPDError
from shared.load_settings import public_settings, resolve_settings
from shared.settings import Settings
from trainer.disk import disk_error, read_jsonl, write_atomically

Record = dict[str, Any]
_SAME_RUN = ("model", "tasks", "rollout", "algorithm", "optimizer", "teacher_prompt")


class RunIdentity(BaseModel):
    """run.json."""

    run_id: str
    name: str
    seed: int
    algorithm: str


class RunDirectory:
    """Opens a run: a new one, or one to go on with.

    Raises SettingsError where the directory holds a run of other settings, InfrastructureError where it cannot be
    written (a full disk, a read-only file system).
    """

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.run.dir) / settings.run.name
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.identity = self._identity(settings)
        except OSError as error:
            raise disk_error(error, self.path) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other learners out; the hold ends with the process, however it ends. Raises VPDError where another
        learner trains this run: both would write its files."""
        with (self.path / ".learner.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise VPDError(
                    f"Another learner trains the run in {self.path}: wait for it or stop it, or choose another name "
                    "with --set run.name=NAME."
                ) from None
            yield

    def _identity(self, settings: Settings) -> RunIdentity:
        file = self.path / "run.json"
        resolved = public_settings(settings)
        if file.exists():
            self._check_same(settings.run.name, resolved)
            return RunIdentity.model_validate_json(file.read_text())
        identity = RunIdentity(
            run_id=f"{settings.run.name}-{secrets.token_hex(3)}",
            name=settings.run.name,
            seed=settings.run.seed,
            algorithm=settings.algorithm.name,
        )
        write_atomically(self.path / "settings.json", json.dumps(resolved, indent=2))
        write_atomically(file, identity.model_dump_json(indent=2))
        return identity

    def _check_same(self, name: str, resolved: Record) -> None:
        before = _resolved_again(self.path / "settings.json")
        changed = [key for key in _SAME_RUN if before.get(key) != resolved.get(key)]
        changed += ["run.seed"] if before["run"]["seed"] != resolved["run"]["seed"] else []
        if changed:
            raise SettingsError(
                f"{self.path} holds a run with other settings ({', '.join(changed)} differ). "
                f"Resume it with its own settings, choose another name (--set run.name=...), or start over (--fresh)."
            )

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").exists()

    def record(self, record: Record) -> None:
        """Append a line to metrics.jsonl. A number that is not finite is written as null: JSON has no other."""
        self._append(self.path / "metrics.jsonl", record)

    def record_timings(self, timings: Record) -> None:
        """Append a line to timings.jsonl."""
        self._append(self.path / "timings.jsonl", timings)

    def records(self) -> list[Record]:
        """What metrics.jsonl holds; a torn last line is left out."""
        return read_jsonl(self.path / "metrics.jsonl")

    def forget_after(self, step: int) -> list[Record]:
        """Drop what was recorded at or after training step `step`: it will be done again from the checkpoint.

        Returns the evaluations and gates among it: they are of policies that doing the steps again brings back.
        """
        metrics = self.path / "metrics.jsonl"
        before = read_jsonl(metrics)
        # An evaluation or a gate at `step` is of the policy before that step and stands.
        self._keep(metrics, lambda r: r["step"] < step + (r["kind"] != "step"))
        self._keep(self.path / "timings.jsonl", lambda r: r["step"] < step)
        return [r for r in before if r["kind"] != "step" and r["step"] > step]

    def _keep(self, file: Path, wanted: Callable[[Record], bool]) -> None:
        if file.exists():
            kept = [r for r in read_jsonl(file) if wanted(r)]
            try:
                write_atomically(file, "".join(json.dumps(r) + "\n" for r in kept))
            except OSError as error:
                raise disk_error(error, file) from error

    def write_trajectories(self, step: int, records: Iterable[Record]) -> None:
        """trajectories/step_N.jsonl: what was asked, answered, said about it, and what the teacher saw."""
        directory = self.path / "trajectories"
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        try:
            directory.mkdir(exist_ok=True)
            write_atomically(directory / f"step_{step:06d}.jsonl", "".join(lines))
        except OSError as error:
            raise disk_error(error, directory) from error

    def write_summary(self, summary: Record) -> None:
        try:
            write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _append(self, file: Path, record: Record) -> None:
        try:
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(as_written(record), allow_nan=False) + "\n")
        except OSError as error:
            raise disk_error(error, file) from error


def as_written(record: Record) -> Record:
    """A record as metrics.jsonl holds it: a number that is not finite is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _resolved_again(file: Path) -> Record:
    """The settings in `file`; those that did not exist when it was written have their defaults."""
    try:
        return public_settings(resolve_settings([file], [], {}).settings)
    except SettingsError:
        before: Record = json.loads(file.read_text())
        return before
