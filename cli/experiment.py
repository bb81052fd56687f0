"""`vpd experiment`: run a table of runs to its end, in parallel and resumable, and write one page about it.

The file's format and the report are in `trainer/experiments/`; processes are `experiment_pool.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cli.development import ROOT
from cli.experiment_pool import Pool
from cli.experiment_progress import ExperimentProgress
from cli.interrupts import Interrupts, Stopped
from shared.errors import SettingsError
from shared.models import resolve_model
from shared.redis_server import RedisServer
from shared.settings import Settings
from shared.tether import tethered
from trainer.experiments.file import read_experiment
from trainer.experiments.plan import Plan, make_plan
from trainer.experiments.report import write_report

FOLDER = Path("recipes") / "experiments"
DIRECTORY = Path("runs") / "experiments"
_MADE_BY = "command.json"


def run(
    name: str, *, jobs: int | None, directory: Path, overrides: Sequence[str], only: Sequence[str], command: str
) -> int:
    """Run what is not done yet, then write the report; the exit code. `command` resumes it. Raises VPDError."""
    file = find(name)
    plan = _plan(file, directory, overrides, only)
    for path in sorted({run.settings.model.path for run in plan.runs}):
        resolve_model(path)
    with _alone(plan.directory):
        _remember(plan.directory, command, overrides, only)
        return _run(plan, file, jobs or _cores(), command)


def _run(plan: Plan, file: Path, jobs: int, command: str) -> int:
    with Interrupts() as interrupts, _redis(plan.directory) as url:
        pool = Pool(plan, jobs, lambda settings: _with_queue(settings, url))
        with ExperimentProgress(Console(), plan, pool) as progress:
            progress.say(f"{plan.experiment.title}: {len(plan.runs)} runs, {jobs} at a time ({progress.counts()})")
            try:
                pool.work(interrupts, progress.update)
            except Stopped as stopped:
                progress.say(f"Stopped: {progress.counts()}. To go on: {command}")
                return stopped.exit_code
    print(f"Report: {write_report(plan, file_text=file.read_text(encoding='utf-8'), command=command)}")
    for name, sentence in pool.failed.items():
        print(f"Failed: {name}: {sentence}")
    return 1 if pool.failed else 0


def report(name: str, *, directory: Path) -> Path:
    """Write the report of what is done so far; its page. Raises VPDError."""
    file = find(name)
    made = directory / file.stem / _MADE_BY
    if not made.exists():
        raise SettingsError(f"{made.parent} holds no runs yet: run `vpd experiment {name}` first.")
    how = json.loads(made.read_text())
    plan = _plan(file, directory, how["overrides"], how["only"])
    return write_report(plan, file_text=file.read_text(encoding="utf-8"), command=how["command"])


def dry_run_lines(name: str, *, directory: Path, overrides: Sequence[str], only: Sequence[str]) -> list[str]:
    """The runs of an experiment, and how many. Raises VPDError."""
    plan = _plan(find(name), directory, overrides, only)
    steps = sum(run.settings.run.steps for run in plan.runs)
    done = sum((plan.path(run) / "summary.json").exists() for run in plan.runs)
    return [*(run.name for run in plan.runs), f"{len(plan.runs)} runs of {steps} steps together, {done} done"]


def list_lines(directory: Path, folder: Path | None = None) -> list[str]:
    """The experiments that ship with the project, each with its title and how much of it is done."""
    lines = []
    for file in sorted((folder or ROOT / FOLDER).glob("*.toml")):
        plan = _plan(file, directory, (), ())
        done = sum((plan.path(run) / "summary.json").exists() for run in plan.runs)
        lines.append(f"{file.stem:24} {done}/{len(plan.runs)} runs  {plan.experiment.title}")
    return lines or [f"There is no experiment in {FOLDER}."]


def find(name: str) -> Path:
    """The file of an experiment: a path, or a name in recipes/experiments/. Raises SettingsError."""
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    file = ROOT / FOLDER / f"{name}.toml"
    if not file.exists():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.toml"))) or "none"
        raise SettingsError(f"There is no experiment {name}; there is {known}, or give the path of a .toml file.")
    return file


def _plan(file: Path, directory: Path, overrides: Sequence[str], only: Sequence[str]) -> Plan:
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return make_plan(read_experiment(file), directory / file.stem, origin=str(shown), overrides=overrides, only=only)


def _with_queue(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"queue": settings.queue.model_copy(update={"url": url})})


def _remember(directory: Path, command: str, overrides: Sequence[str], only: Sequence[str]) -> None:
    how = {"command": command, "overrides": list(overrides), "only": list(only)}
    (directory / _MADE_BY).write_text(json.dumps(how, indent=1) + "\n")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the experiment's directory. Raises SettingsError if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"Another `vpd experiment` runs in {directory}: wait for it, or choose another --dir."
            ) from None
        yield


@contextmanager
def _redis(directory: Path) -> Iterator[str]:
    """One Redis for all runs of the experiment; its files stay in the experiment's directory."""
    # A socket's path has at most 107 bytes: the experiment's own directory may be longer.
    folder = Path(tempfile.mkdtemp(prefix="vpd-"))
    try:
        with _TetheredRedis((directory / "redis").absolute(), unix_socket=folder / "redis.sock") as server:
            yield server.url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _TetheredRedis(RedisServer):
    """Dies with this process, however that dies: two servers on one append-only file would spoil it."""

    def command(self) -> list[str]:
        return tethered(super().command())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
