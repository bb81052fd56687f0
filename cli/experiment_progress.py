"""What a person sees while an experiment goes on: live on a terminal, else a line for each run that starts or ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.experiment_pool import Pool
from cli.progress import percent
from shared.jsonl_tail import JsonlTail
from trainer.experiments.plan import Plan, Run


@dataclass
class _Watched:
    """What is known of a run that is in the works."""

    run: Run
    tail: JsonlTail
    step: int = 0
    accuracy: float | None = None
    resumed_at: int | None = None

    def read(self) -> None:
        for record in self.tail.read().records:
            if record.get("kind") == "step":
                self.step = int(record["step"]) + 1
            elif record.get("kind") == "evaluation":
                self.accuracy = record.get("student_accuracy")
        if self.resumed_at is None:
            self.resumed_at = self.step


@dataclass
class ExperimentProgress:
    """Use as a context manager; call `update` now and then."""

    console: Console
    plan: Plan
    pool: Pool
    began: float = field(default_factory=time.monotonic)
    watched: dict[str, _Watched] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    steps_done: int = 0
    """By runs that ended in this session."""

    def __post_init__(self) -> None:
        self.said |= {*self.pool.done, *self.pool.failed}
        self._live = Live(console=self.console, refresh_per_second=2, get_renderable=self._render, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self) -> None:
        """Take in what has happened since."""
        for name, job in self.pool.running.items():
            if name not in self.watched:
                self.watched[name] = _Watched(job.run, JsonlTail(self.plan.path(job.run) / "metrics.jsonl"))
                if not self.console.is_terminal:
                    self.say(f"{name}: started")
            self.watched[name].read()
        for name in [*self.pool.done, *self.pool.failed]:
            if name not in self.said:
                self.said.add(name)
                self._ended(name)

    def counts(self) -> str:
        """3 done, 2 running, 1 failed, 6 waiting."""
        pool = self.pool
        numbers = {
            "done": len(pool.done),
            "running": len(pool.running),
            "failed": len(pool.failed),
            "waiting": len(pool.waiting),
        }
        return ", ".join(f"{number} {word}" for word, number in numbers.items() if number or word == "done")

    def _ended(self, name: str) -> None:
        watched = self.watched.pop(name, None)
        if watched is not None:
            watched.read()
            self.steps_done += watched.step - (watched.resumed_at or 0)
        if name in self.pool.failed:
            self.say(f"{name}: failed: {self.pool.failed[name]}")
            return
        result = self.pool.done[name]
        fell = ", collapsed" if result.collapsed else ""
        line = f"{name}: {percent(result.final)} held out, area {result.area:.3f}{fell}, {result.minutes:.1f} min"
        self.say(line if self.console.is_terminal else f"{line} ({self.counts()}, {self._time()})")

    def _render(self) -> RenderableType:
        done, total = len(self.pool.done), len(self.plan.runs)
        table = Table.grid(padding=(0, 2))
        for watched in list(self.watched.values()):
            if watched.run.name in self.pool.running:
                steps = watched.run.settings.run.steps
                table.add_row(watched.run.name, f"step {watched.step}/{steps}", f"held out {percent(watched.accuracy)}")
        bar = ProgressBar(total=total, completed=done, width=40)
        head = Text(f"{self.plan.experiment.title}: {self.counts()}, {self._time()}")
        return Group(head, bar, table)

    def _time(self) -> str:
        elapsed = time.monotonic() - self.began
        left = time_left(elapsed, self._steps_made(), self._steps_left())
        return f"{duration(elapsed)} so far, {'?' if left is None else duration(left)} left"

    def _steps_made(self) -> int:
        return self.steps_done + sum(w.step - (w.resumed_at or 0) for w in self.watched.values())

    def _steps_left(self) -> int:
        waiting = sum(run.settings.run.steps for run in self.pool.waiting)
        return waiting + sum(w.run.settings.run.steps - w.step for w in self.watched.values())


def time_left(elapsed_s: float, steps_made: int, steps_left: int) -> float | None:
    """Seconds, if the steps that are left take as long as those made; None before the first."""
    return elapsed_s / steps_made * steps_left if steps_made > 0 else None


def duration(seconds: float) -> str:
    """1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
