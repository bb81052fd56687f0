"""What a person sees while a run goes on: drawn live on a terminal, else a line now and then.

Read off `metrics.jsonl` and `timings.jsonl` of the run; writes nothing and starts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]
_LINES = 20
"""Lines of a whole run where output is no terminal, besides evaluations."""


class Progress:
    """Shows a run. Use as a context manager; `status` before the first step, `update` with new records."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._status = ""
        self._detail = ""
        self._step: Record = {}
        self._evaluations: list[Record] = []
        self._timings: dict[int, Record] = {}
        self._shown = -1
        self._printed: set[str] = set()
        self._began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str, detail: str = "") -> None:
        """What is being waited for; on a terminal it is redrawn in place, with `detail` below it."""
        if text != self._status and not self._console.is_terminal and text:
            self.say(text)
        self._status, self._detail = text, detail

    def update(self, records: Sequence[Record], timings: Sequence[Record] = ()) -> None:
        """Take in records of metrics.jsonl, and at least as much of timings.jsonl.

        A record of a step already passed (after a resume) takes its place.
        """
        self._timings |= {int(times.get("step", 0)): times for times in timings}
        for record in records:
            if record.get("kind") == "evaluation":
                step = record.get("step", 0)
                self._evaluations = [one for one in self._evaluations if one.get("step", 0) < step] + [record]
                self._line(evaluation_line(record))
            elif record.get("kind") == "gate":
                self._line(gate_line(record))
            elif record.get("kind") == "step":
                self._status = ""
                number = int(record.get("step", 0))
                self._step = {**record, **self._timings.get(number, {})}
                every = max(1, self._steps // _LINES)
                if number // every != self._shown // every or number + 1 >= self._steps:
                    self._shown = number
                    self._line(step_line(self._step, self._steps))

    def _line(self, line: str) -> None:
        # A learner that resumes writes metrics.jsonl anew, so the same records are read twice.
        if not self._console.is_terminal and line not in self._printed:
            self._printed.add(line)
            self.say(line)

    def _render(self) -> RenderableType:
        elapsed = _duration(time.monotonic() - self._began)
        if not self._step:
            first = f"{self._status or 'Waiting for the first step'} ({elapsed})"
            return Text("\n".join(filter(None, [first, self._detail])), style="dim")
        done = int(self._step.get("step", 0)) + 1
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"step {min(done, self._steps)} of {self._steps}", style="bold"),
            ProgressBar(total=self._steps, completed=min(done, self._steps), width=40),
            Text(f"{elapsed}, {eta(self._step)} left"),
        )
        body = Table.grid(padding=(0, 3))
        for name, value in [*step_numbers(self._step), *self._accuracies()]:
            body.add_row(Text(name, style="dim"), Text(value))
        parts: list[RenderableType] = [head, body]
        if self._status:
            parts.append(Text(self._status, style="yellow"))
        return Group(*parts)

    def _accuracies(self) -> list[tuple[str, str]]:
        rows = []
        for name, key in (("student accuracy", "student_accuracy"), ("teacher accuracy", "teacher_accuracy")):
            values = [one[key] for one in self._evaluations if one.get(key) is not None]
            if values:
                rows.append((name, " → ".join(percent(value) for value in values[-8:])))
        return rows


def step_numbers(record: Record) -> list[tuple[str, str]]:
    """The numbers of a step and its times that people watch, as (name, value); absent ones are left out."""
    formats = (
        ("reward", "reward_mean", "{:.3f}"),
        ("success", "success_rate", "{:.1%}"),
        ("rows trained", "rows_trained", "{:.0f}"),
        ("KL", "m_step/kl", "{:.4f}"),
        ("implicit-reward margin", "e_step/margin", "{:+.3f}"),
        ("tokens/s", "tokens_per_s", "{:.0f}"),
    )
    numbers = [(name, form.format(record[key])) for name, key, form in formats if record.get(key) is not None]
    lifts = [(who, record.get(f"teacher/{who}_lift_nats")) for who in ("success", "failure")]
    if any(lift is not None for _, lift in lifts):
        shown = ", ".join(f"{lift:+.2f} on {who}" for who, lift in lifts if lift is not None)
        numbers.append(("teacher lift in nats", shown))
    waiting, pending = record.get("queue/waiting"), record.get("queue/pending")
    if waiting is not None or pending is not None:
        numbers.append(("queue", f"{waiting or 0:.0f} waiting, {pending or 0:.0f} in work"))
    return numbers


def step_line(record: Record, steps: int) -> str:
    """One step on one line."""
    numbers = ", ".join(f"{name} {value}" for name, value in step_numbers(record))
    return f"step {int(record.get('step', 0)) + 1}/{steps}: {numbers}, {eta(record)} left"


def evaluation_line(record: Record) -> str:
    """One evaluation on one line."""
    return f"held out, after {record.get('step', 0)} steps: {_shares(record)}"


def gate_line(record: Record) -> str:
    """What an algorithm was told of the teacher, on one line."""
    return f"on prompts to be trained on, after {record.get('step', 0)} steps: {_shares(record)}"


def _shares(record: Record) -> str:
    who = [("student", "student_accuracy"), ("teacher", "teacher_accuracy")]
    shares = ", ".join(f"{name} {percent(record.get(key))}" for name, key in who if record.get(key) is not None)
    return shares or "nothing was judged"


def result_lines(summary: Record, directory: Path) -> list[str]:
    """What a finished run came to: before and after on held-out tasks, notes, where the files are."""
    lines = []
    for who in ("student", "teacher"):
        prefix = "" if who == "student" else "teacher_"
        before, after = summary.get(f"{prefix}accuracy_before"), summary.get(f"{prefix}accuracy_after")
        if after is not None:
            lines.append(f"Held-out accuracy of the {who}: {percent(before)} → {percent(after)}")
    collapsed = summary.get("collapsed")
    lines += [collapsed] if collapsed else []
    lines += [f"Note: {note}" for note in summary.get("notes") or () if note != collapsed]
    if (directory / "curve.png").exists():
        lines.append(f"Curve: {directory / 'curve.png'}")
    return [*lines, f"Run directory: {directory}"]


def percent(share: float | None) -> str:
    """0.5 -> 50.0 %; None -> ?."""
    return "?" if share is None else f"{100 * share:.1f} %"


def eta(record: Record) -> str:
    """How long the rest will take, as the learner guesses."""
    seconds = record.get("eta_s")
    return "?" if seconds is None else _duration(float(seconds))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
