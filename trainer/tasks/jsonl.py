"""A user's own rows: a `Task`, or `prompt` with a reference.

    {"id", "kind", "messages", "reference"}                                       a Task of the protocol
    {"prompt", "answer" | "reference", "kind"?, "id"?, "system"?, "source"?}      the short form

`kind` is `math` unless said; `source` names the group of tasks that the row belongs to.
"""

from __future__ import annotations

from shared.settings import TaskSettings
from trainer.tasks.question import Question, identifier, make_task
from trainer.tasks.rows import Row

SHORT = ("prompt", "answer", "reference", "kind", "id", "system", "source")
FULL = ("id", "kind", "messages", "reference")


def read_own(row: Row, _: TaskSettings) -> Question:
    """The question of a row. Raises DataError for one that is neither form."""
    return _short(row) if "prompt" in row.fields else _full(row)


def _full(row: Row) -> Question:
    _refuse_unknown(row, FULL)
    for field in ("id", "kind", "messages"):
        if field not in row.fields:
            raise row.wrong(field, "is missing; a line has `id`, `kind` and `messages`, or else `prompt`")
    task = make_task(row, **{"reference": {}, **row.fields})
    return Question.of("\n".join(message.content for message in task.messages if message.role != "system"), task)


def _short(row: Row) -> Question:
    _refuse_unknown(row, SHORT)
    prompt = row.text("prompt")
    if ("answer" in row.fields) == ("reference" in row.fields):
        raise row.wrong("answer", "exactly one of `answer` and `reference` must be there, to judge by")
    if "reference" in row.fields and "kind" not in row.fields:
        raise row.wrong("kind", "is missing; it says how the reference is read, such as code.stdin")
    system = [{"role": "system", "content": row.fields["system"]}] if row.fields.get("system") else []
    task = make_task(
        row,
        id=row.fields.get("id") or identifier(str(row.fields.get("source") or row.data), prompt),
        kind=row.fields.get("kind", "math"),
        messages=[*system, {"role": "user", "content": prompt}],
        reference=row.fields["reference"] if "reference" in row.fields else {"answer": row.fields["answer"]},
    )
    return Question.of(prompt, task)


def _refuse_unknown(row: Row, known: tuple[str, ...]) -> None:
    for field in row.fields:
        if field not in known:
            raise row.wrong(field, f"is not a field of a task; there are {', '.join(known)}")
