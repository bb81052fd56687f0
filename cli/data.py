"""`vpd data check`: read all tasks of the settings, and say what is in them and what is wrong. Needs no service."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.errors import DataError
from shared.protocol import Message, Task
from shared.settings import Settings
from trainer.long_prompts import FIX, no_room
from trainer.tasks import BUILTIN, load_tasks
from trainer.tasks.sources import Loaded, load_data

MAX_SHOWN = 20
"""Wrong rows that are listed; the others are counted."""
ALL = 10**6
TRAINING = "training"

CountTokens = Callable[[Sequence[Message]], int]


@dataclass(frozen=True)
class Lengths:
    """Of prompts: the middle one and the longest."""

    median: int
    longest: int


@dataclass(frozen=True)
class TaskCounts:
    """What is in the training or the held-out tasks. `tests`: of one code task, the fewest and the most. `too_long`:
    prompts that leave no room for a response in the model's context, and `no_room` a sentence about them."""

    name: str
    tasks: int
    kinds: dict[str, int]
    chars: Lengths
    tokens: Lengths | None
    tests: tuple[int, int] | None
    too_long: int
    no_room: str | None

    @property
    def left_out(self) -> bool:
        """Whether a run leaves out the prompts that are too long (`trainer/long_prompts.py`), and does not stop."""
        return self.name == TRAINING and self.too_long < self.tasks


def main(settings: Settings, *, with_model: bool, as_json: bool, show: int) -> int:
    """Print the report. `with_model`: count tokens with the model's tokenizer. Returns 0, or 1 where a row is wrong or
    a held-out prompt does not fit into the model's context. Raises SettingsError where there is nothing to read."""
    loaded = _load(settings)
    count, context = _model(settings) if with_model else (None, ALL)
    sets = [
        _counted(name, tasks, count, max_tokens=settings.rollout.max_tokens, context=context)
        for name, tasks in ((TRAINING, loaded.training), ("held out", loaded.held_out))
        if tasks
    ]
    problems = [f"{one.no_room} {FIX}" for one in sets if one.no_room and not one.left_out]
    notes = [f"{one.no_room} A run leaves them out." for one in sets if one.no_room and one.left_out]
    if as_json:
        print(json.dumps(_as_json(loaded, sets, problems, notes), indent=2))
    else:
        _print(loaded, sets, problems, notes)
        for task in (*loaded.training, *loaded.held_out)[:show]:
            print("\n".join(_shown(task)))
    return 1 if problems or loaded.mistakes else 0


def _load(settings: Settings) -> Loaded:
    if not settings.tasks.source.startswith(BUILTIN):
        return load_data(settings.tasks)
    # A world draws its training tasks without end: there is nothing to read but those that it holds out.
    return Loaded([], [], load_tasks(settings.tasks, seed=settings.run.seed).held_out(ALL))


def _model(settings: Settings) -> tuple[CountTokens, int]:
    """How many tokens a chat has, and how many the model has positions for."""
    from services.inference.model_files import model_directory, read_json
    from services.inference.text import Text

    text = Text(settings.model.path)
    text.load()
    positions = read_json(model_directory(settings.model.path), "config.json").get("max_position_embeddings", ALL)
    return lambda messages: len(text.render(messages)), min(positions, settings.inference.max_context or positions)


def _counted(
    name: str, tasks: Sequence[Task], count: CountTokens | None, *, max_tokens: int, context: int
) -> TaskCounts:
    tokens = [count(task.messages) for task in tasks] if count else []
    too_long = sum(length + max_tokens > context for length in tokens)
    kind = name.replace(" ", "-")
    tests = [len(task.reference["tests"]) for task in tasks if "tests" in task.reference]
    return TaskCounts(
        name,
        len(tasks),
        dict(Counter(task.kind for task in tasks).most_common()),
        _lengths([sum(len(message.content) for message in task.messages) for task in tasks]),
        _lengths(tokens) if tokens else None,
        (min(tests), max(tests)) if tests else None,
        too_long,
        no_room(kind, tokens, max_tokens=max_tokens, context=context) if too_long else None,
    )


def _lengths(lengths: Sequence[int]) -> Lengths:
    return Lengths(int(median(lengths)), max(lengths))


# ---------------------------------------------------------------------------------------------------------- output


def _as_json(
    loaded: Loaded, sets: Sequence[TaskCounts], problems: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "data": [
            {
                "name": reading.name,
                "rows": reading.rows,
                "tasks": reading.tasks,
                "left_out": dict(reading.left_out),
                "tests_left_out": reading.tests_left_out,
                "wrong": len(reading.mistakes),
            }
            for reading in loaded.readings
        ],
        "tasks": [asdict(one) for one in sets],
        "wrong": [str(mistake) for mistake in loaded.mistakes[:MAX_SHOWN]],
        "problems": list(problems),
        "notes": list(notes),
    }


def _print(loaded: Loaded, sets: Sequence[TaskCounts], problems: Sequence[str], notes: Sequence[str]) -> None:
    console = Console(width=max(100, Console().width), highlight=False)
    if loaded.readings:
        data = _table("data", "rows", "tasks", "left out", "wrong")
        for reading in loaded.readings:
            left_out = [f"{rows:,} {reason}" for reason, rows in reading.left_out.most_common()]
            left_out += [f"{reading.tests_left_out:,} tests over max_tests_mb"] if reading.tests_left_out else []
            data.add_row(
                reading.name,
                f"{reading.rows:,}",
                f"{reading.tasks:,}",
                "\n".join(left_out) or "-",
                f"{len(reading.mistakes):,}",
            )
        console.print(data)
    if sets:
        table = _table("tasks", "count", "kinds", "characters", "tokens", "tests a task")
        for one in sets:
            kinds = "\n".join(f"{count:,} {kind}" for kind, count in one.kinds.items())
            tests = f"{one.tests[0]:,} to {one.tests[1]:,}" if one.tests else "-"
            table.add_row(one.name, f"{one.tasks:,}", kinds, _length(one.chars), _length(one.tokens), tests)
        console.print(table)
        console.print("Characters and tokens: of the middle prompt / of the longest one.")
    for note in notes:
        console.print(f"NOTE {note}", soft_wrap=True, markup=False)
    for problem in chain(map(_sentence, loaded.mistakes[:MAX_SHOWN]), problems):
        console.print(f"PROBLEM {problem}", soft_wrap=True, markup=False)
    if len(loaded.mistakes) > MAX_SHOWN:
        console.print(f"PROBLEM {len(loaded.mistakes) - MAX_SHOWN:,} more rows are wrong.")


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in table.columns[:1]:
        column.overflow = "fold"
    return table


def _length(lengths: Lengths | None) -> str:
    return f"{lengths.median:,} / {lengths.longest:,}" if lengths else "-"


def _sentence(mistake: DataError) -> str:
    return " ".join(str(mistake).split())


def _shown(task: Task) -> Iterator[str]:
    yield f"\n--- {task.id} ({task.kind})"
    for message in task.messages:
        yield f"[{message.role}]\n{message.content}"
    reference = json.dumps(task.reference, ensure_ascii=False)
    yield f"[reference]\n{reference if len(reference) <= 1000 else reference[:1000] + ' ...'}"
