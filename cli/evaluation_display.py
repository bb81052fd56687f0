"""What a person sees of an evaluation: a bar while it goes on, a table of its figures, a table of two compared."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.interrupts import Interrupts
from trainer.evaluation.figures import Figure
from trainer.evaluation.identity import Identity
from trainer.evaluation.result import Comparison, GroupFigures, Result, WhoFigures

_LINES = 10
"""Lines about how far a whole evaluation is where output is no terminal."""
_WIDE = 160


class EvaluationProgress:
    """Shows how many verdicts of `total` are there, on standard error; use it in a `with` block."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._tenth = -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """What is being done now."""
        self._bar.update(self._task, description=text)
        if not self._console.is_terminal:
            self.say(f"{text}.")

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        self._interrupts.check()

    def show(self, verdicts: int, total: int) -> None:
        """So many verdicts are there."""
        self._bar.update(self._task, completed=verdicts, total=total)
        tenth = verdicts * _LINES // total
        if not self._console.is_terminal and tenth > self._tenth:
            self.say(f"{verdicts} of {total} rollouts are judged.")
        self._tenth = tenth


def print_result(result: Result) -> None:
    """The table of a result, and what is to be known of its figures, on standard output."""
    console = _console()
    table = Table()
    ks = sorted(result.student.all.pass_at)
    for name in ("domain", "policy", "tasks", f"avg@{result.samples}", *(f"pass@{k}" for k in ks)):
        table.add_column(name, justify="left" if name in ("domain", "policy") else "right")
    for name in ("informed", "truncated", "tokens", "unjudged"):
        table.add_column(name, justify="right")
    both = [("student", result.student), *([("teacher", result.teacher)] if result.teacher else [])]
    for name in _rows(result.student):
        for who, figures in both:
            group = _group(figures, name)
            table.add_row(name, who, *_cells(group, ks), end_section=who == both[-1][0])
    _line(console, _title(result))
    console.print(table)
    for line in _notes(result):
        _line(console, line)


def print_comparison(names: Sequence[str], comparison: Comparison) -> None:
    """The differences of the second named from the first, on standard output."""
    first, second = names
    table = Table()
    for name in ("domain", "policy", "tasks", "difference", "95 % interval"):
        table.add_column(name, justify="left" if name in ("domain", "policy") else "right")
    domains = comparison.domains if len(comparison.domains) > 1 else {}
    rows = [
        *((name, "student", figure) for name, figure in domains.items()),
        ("all", "student", comparison.student),
        ("all", "teacher", comparison.teacher),
    ]
    for domain, who, figure in rows:
        if figure is not None:
            table.add_row(domain, who, str(figure.tasks), f"{100 * figure.value:+.1f}", _interval(figure, "+.1f"))
    console = _console()
    _line(console, f"{second} minus {first}, in points of avg@k")
    console.print(table)
    if comparison.only_in_one:
        _line(console, f"{comparison.only_in_one} tasks are in one of the two alone and are left out.")


def _console() -> Console:
    console = Console()
    # A file has no width; at the 80 columns that rich assumes, every cell would be broken.
    return console if console.is_terminal else Console(width=_WIDE)


def _line(console: Console, text: str) -> None:
    # A table's own title would be broken to the table's width, paths in it too.
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _title(result: Result) -> str:
    tasks, sampling = result.identity["tasks"], result.identity["sampling"]
    how = "greedy" if sampling["temperature"] == 0 else f"T {sampling['temperature']:g}, top-p {sampling['top_p']:g}"
    return f"{_policy(result.identity)} on {tasks['count']} held-out tasks of {tasks['source']}, {how}, in %"


def _policy(identity: Identity) -> str:
    policy = identity["policy"]
    if policy.get("run_id") is None:
        return str(policy["model"])
    return f"{policy['run_id']}, version {policy['version']}"


def _rows(student: WhoFigures) -> list[str]:
    if student.mean_of_domains is None:
        return ["all"]
    return [*student.domains, "mean of domains", "all"]


def _group(figures: WhoFigures, name: str) -> GroupFigures:
    if name == "all":
        return figures.all
    if name == "mean of domains":
        assert figures.mean_of_domains is not None
        return figures.mean_of_domains
    return figures.domains[name]


def _cells(group: GroupFigures, ks: list[int]) -> list[str]:
    return [
        str(group.tasks),
        _shown(group.avg),
        *(_shown(group.pass_at[k]) if k in group.pass_at else "" for k in ks),
        _percent(group.informed),
        _percent(group.truncated),
        "" if group.tokens is None else f"{group.tokens:.0f}",
        str(group.unjudged),
    ]


def _shown(figure: Figure | None) -> str:
    return "none judged" if figure is None else f"{100 * figure.value:.1f} {_interval(figure, '.1f')}".rstrip()


def _interval(figure: Figure, form: str) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"[{100 * figure.low:{form}}, {100 * figure.high:{form}}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def _notes(result: Result) -> list[str]:
    notes = ["Intervals: 95 %, bootstrap over tasks."]
    if (gain := result.teacher_gain) is not None:
        notes.append(f"Teacher minus student: {100 * gain.value:+.1f} {_interval(gain, '+.1f')}".rstrip() + " points.")
    for who, figures in (("student", result.student), ("teacher", result.teacher)):
        reasons = {reason: number for reason, number in figures.unjudged.items() if number} if figures else {}
        if reasons:
            told = ", ".join(f"{number} {_REASONS[reason]}" for reason, number in reasons.items())
            notes.append(f"Rollouts of the {who} without an outcome, left out of every figure: {told}.")
    return notes


_REASONS = {
    "infra": "because the outcome source failed (the same command asks it again)",
    "data": "because they cannot be judged, or the prompt was refused",
    "abstained": "because the outcome source abstained",
}
