"""Rows of any data set, whose columns the settings name."""

from __future__ import annotations

from typing import Any

from shared.settings import TaskSettings
from trainer.tasks.question import Question, identifier, make_task
from trainer.tasks.rows import Row


def read_columns(row: Row, settings: TaskSettings) -> Question:
    """The question of a row. Raises DataError where a column is missing or holds something else."""
    ours = settings.huggingface
    messages = _messages(row, ours.prompt)
    asked = "\n".join(str(m.get("content")) if isinstance(m, dict) else str(m) for m in messages)
    answer = _column(row, ours.answer)
    task = make_task(
        row,
        id=identifier(row.data, asked),
        kind=ours.kind,
        messages=([{"role": "system", "content": ours.system}] if ours.system else []) + messages,
        reference=answer if isinstance(answer, dict) else {"answer": answer},
    )
    return Question.of(asked, task)


def _messages(row: Row, column: str) -> list[Any]:
    value = _column(row, column)
    return value if isinstance(value, list) else [{"role": "user", "content": row.text(column)}]


def _column(row: Row, column: str) -> Any:
    value = row.fields.get(column)
    if value is None:
        there = ", ".join(row.fields)
        raise row.wrong(column, f"is missing; name the columns in tasks.huggingface, of {there}")
    return value
