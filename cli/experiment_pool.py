"""Runs side by side: one process a run, as many at a time as asked, forked off a server that has loaded the libraries.

Which runs there are is the plan's; a run whose learning rate a search chooses waits for that search.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from cli.interrupts import Interrupts, Stopped
from shared.errors import DataError, VPDError
from shared.settings import Settings
from trainer.experiments.plan import Plan, Run
from trainer.experiments.results import Result, read_result
from trainer.experiments.search import choose, tried

_POLL_S = 0.5
_STOPPED = 3
"""Exit code of a run that was stopped and can be resumed."""
# One core a run. Without the allocator's settings the kernel maps and clears every large tensor anew.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}


@dataclass
class Pool:
    """The state of all runs of a plan. `ready` gets settings ready for this machine, such as the queue's address."""

    plan: Plan
    jobs: int
    ready: Callable[[Settings], Settings]
    waiting: list[Run] = field(default_factory=list)
    running: dict[str, _Job] = field(default_factory=dict)
    done: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run in self.plan.runs:
            self.waiting.append(run)
            self.take_in(run)

    def work(self, interrupts: Interrupts, watch: Callable[[], None]) -> None:
        """Start what can start until nothing is left; `watch` is called now and then. Raises Stopped when a signal
        came, after the running runs have ended their step and written a checkpoint."""
        try:
            while self.waiting or self.running:
                interrupts.check()
                self._start()
                self._wait()
                watch()
        except Stopped:
            self.stop(interrupts.hurry, watch)
            raise
        finally:
            self.kill()

    def stop(self, hurry: Callable[[], bool], watch: Callable[[], None]) -> None:
        """Ask every run to stop after its step, and wait for them; `hurry()` true kills them."""
        for job in self.running.values():
            job.process.terminate()
        while self.running and not hurry():
            self._wait()
            watch()

    def kill(self) -> None:
        """End what still runs; it goes on from its checkpoint later."""
        for job in self.running.values():
            job.process.kill()
            job.process.join()
            self.waiting.append(job.run)
        self.running.clear()

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.running) == self.jobs:
                return
            settings = self.settings_of(run)
            if settings is None:
                continue
            self.take_in(run)
            if run in self.waiting:
                self.waiting.remove(run)
                self.running[run.name] = _Job.start(run, self.ready(settings), self.plan.path(run))

    def settings_of(self, run: Run) -> Settings | None:
        """The run's settings, with the rate a search chose; None while it must wait or where it cannot be run."""
        if run.rate_from is None:
            return run.settings
        searched = self.plan.searched(run.rate_from)
        if any(other.name not in self.done and other.name not in self.failed for other in searched):
            return None
        rate = choose(tried(self.plan, run.rate_from, self.done))
        if rate is None:
            self.waiting.remove(run)
            self.failed[run.name] = (
                f"no learning rate could be chosen, since runs of its search failed ({searched[0].name} ...)."
            )
            return None
        return run.at_rate(rate)

    def _wait(self) -> None:
        wait([job.process.sentinel for job in self.running.values()], timeout=_POLL_S)
        for name, job in list(self.running.items()):
            if job.process.exitcode is not None:
                del self.running[name]
                self._ended(job)

    def _ended(self, job: _Job) -> None:
        job.process.join()
        # A process that was told to stop before it listened ends by the signal itself.
        if job.process.exitcode in (0, _STOPPED, -signal.SIGTERM):
            self.waiting.append(job.run)
            self.take_in(job.run)
        else:
            self.failed[job.run.name] = job.sentence()

    def take_in(self, run: Run) -> None:
        """Take the run off the waiting ones if its files say that it is done, at the rate that its search chooses."""
        settings = self.settings_of(run)
        if settings is None:
            return
        try:
            result = read_result(run, self.plan.path(run))
            if result is not None:
                _check_rate(settings, self.plan.path(run))
        except VPDError as error:
            self.waiting.remove(run)
            self.failed[run.name] = str(error)
            return
        if result is not None:
            self.waiting.remove(run)
            self.done[run.name] = result


def _check_rate(settings: Settings, directory: Path) -> None:
    """Raises DataError for a run whose search has grown since, and chooses another rate now."""
    file = directory / "settings.json"
    if not file.exists():
        return
    rate = json.loads(file.read_text())["algorithm"]["learning_rate"]
    if rate != settings.algorithm.learning_rate:
        raise DataError(
            f"{directory} holds a run at learning rate {rate:g}, and the search now chooses "
            f"{settings.algorithm.learning_rate:g}: delete that directory, and call again."
        )


@dataclass
class _Job:
    """A run in its process."""

    run: Run
    process: ForkServerProcess
    failure: Connection
    log: Path
    started: float

    @classmethod
    def start(cls, run: Run, settings: Settings, directory: Path) -> _Job:
        context = _context()
        receiving, sending = context.Pipe(duplex=False)
        log = directory / "logs" / "run.log"
        process = context.Process(target=_enter, args=(settings, run.critiques_per_step, log, sending), name=run.name)
        with _environment():
            process.start()
        sending.close()
        return cls(run, process, receiving, log, time.monotonic())

    def sentence(self) -> str:
        """Why it failed."""
        try:
            if self.failure.poll():
                return str(self.failure.recv())
        except EOFError:
            pass
        return f"its process ended with code {self.process.exitcode}; its log is {self.log}."


def _enter(settings: Settings, critiques_per_step: int, log: Path, failure: Connection) -> None:
    # Not imported above: this process needs neither torch nor transformers.
    from cli.experiment_worker import work

    sys.exit(0 if work(settings, critiques_per_step, log, failure) else _STOPPED)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cli.experiment_worker"])
    return context


@contextmanager
def _environment() -> Iterator[None]:
    """The environment in which the fork server, and so every run, starts."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
