"""Tasks from a user's JSONL file, one `Task` a line, each mistake named by file, line and field.

Whether a reference is of the shape its kind needs beyond what is checked here is for the source that judges it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import DataError, SettingsError
from shared.protocol import Task

HELD_OUT_SHARE = 0.1


class FileTasks:
    """`TaskSet` of a file: every task once in each epoch, each epoch in an order of its own drawn by `seed`."""

    def __init__(self, source: Path, held_out: Path | None, *, seed: int) -> None:
        """Raises SettingsError for a file that cannot be read, DataError for what is wrong in it."""
        tasks = read_tasks(source)
        if held_out is not None:
            self._training, self._held_out = tasks, read_tasks(held_out)
            _refuse_shared_tasks(source, tasks, held_out, self._held_out)
        else:
            self._training, self._held_out = _split(source, tasks, seed)
        self._seed = seed

    def training(self, step: int, count: int) -> list[Task]:
        """Tasks `step * count` to `(step + 1) * count` of the endless sequence of epochs."""
        size = len(self._training)
        positions = range(step * count, (step + 1) * count)
        orders = {epoch: self._order(epoch) for epoch in {p // size for p in positions}}
        return [self._training[orders[p // size][p % size]] for p in positions]

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks, or all there are if fewer."""
        return self._held_out[:count]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self._training)))
        random.Random(f"epoch:{self._seed}:{epoch}").shuffle(order)
        return order


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a JSONL file in their order; blank lines are passed over.

    Raises SettingsError for a file that cannot be read or holds no task, DataError for a line that is no task.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"Task file {path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise SettingsError(f"Task file {path} cannot be read: {error.strerror}.") from error
    tasks = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        task = _task(path, number, line)
        if task.id in first_line:
            raise DataError(
                f"{path}, line {number}, field id: {task.id!r} is already the id of line {first_line[task.id]}; "
                "give every task an id of its own.",
                field="id",
            )
        first_line[task.id] = number
        tasks.append(task)
    if not tasks:
        raise SettingsError(f"Task file {path} holds no task; write one JSON task a line.")
    return tasks


def _task(path: Path, number: int, line: str) -> Task:
    try:
        task = Task.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        at = f", field {field}" if field else ""
        raise DataError(f"{path}, line {number}{at}: {problem['msg']}.", field=field or None) from error
    wrong = _wrong_reference(task)
    if wrong is not None:
        field, message = wrong
        raise DataError(f"{path}, line {number}, field {field}: task {task.id!r} {message}.", field=field)
    return task


def _wrong_reference(task: Task) -> tuple[str, str] | None:
    """The field and what is wrong with it, for the kinds whose references the protocol describes."""
    if task.kind in ("code.functional", "code.stdin"):
        tests = task.reference.get("tests")
        if not isinstance(tests, list) or not tests:
            return "reference.tests", "has no tests; give it a list of {input, output}"
        for i, test in enumerate(tests):
            if not _is_test(test):
                return f"reference.tests.{i}", "has a test without the strings `input` and `output`"
        if task.kind == "code.functional" and not _text(task.reference.get("fn_name")):
            return "reference.fn_name", "does not say which function to call"
    if task.kind == "code.assert":
        if not _text(task.reference.get("test_code")):
            return "reference.test_code", "has no tests; give it `test_code`"
        if not _text(task.reference.get("entry_point")):
            return "reference.entry_point", "does not say which function is tested"
    if task.kind in ("choice", "math") and not _text(task.reference.get("answer")):
        return "reference.answer", "has no answer to compare with"
    return None


def _is_test(test: Any) -> bool:
    return isinstance(test, dict) and isinstance(test.get("input"), str) and isinstance(test.get("output"), str)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _split(source: Path, tasks: Sequence[Task], seed: int) -> tuple[list[Task], list[Task]]:
    """A seeded tenth, at least one task, is held out; the rest, in the file's order, is for training."""
    if len(tasks) < 2:
        raise SettingsError(
            f"Task file {source} holds one task, so none can be held out; add tasks or set tasks.held_out."
        )
    order = list(range(len(tasks)))
    random.Random(f"held out:{seed}").shuffle(order)
    kept = order[: max(1, round(len(tasks) * HELD_OUT_SHARE))]
    chosen = set(kept)
    return [task for i, task in enumerate(tasks) if i not in chosen], [tasks[i] for i in kept]


def _refuse_shared_tasks(source: Path, training: Sequence[Task], other: Path, held_out: Sequence[Task]) -> None:
    shared = {task.id for task in training} & {task.id for task in held_out}
    if shared:
        raise DataError(
            f"{other}: task {min(shared)!r} is also in {source}; a held-out task must not be trained on.", field="id"
        )
