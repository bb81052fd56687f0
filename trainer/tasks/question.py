"""What a format makes of a row: a question, or the reason why it is left out."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sandbox.reference import KINDS as CODE_KINDS
from sandbox.reference import parse_task
from services.critic_feedback.answers import as_letter
from shared.errors import DataError
from shared.protocol import Task
from trainer.tasks.rows import Row


@dataclass(frozen=True)
class Question:
    """`text` is what makes two rows the same question. Training and held-out tasks may differ in their tests."""

    text: str
    training: Task
    held_out: Task
    tests_left_out: int = 0

    @classmethod
    def of(cls, text: str, task: Task) -> Question:
        """A question whose task is the same in training and held out."""
        return cls(text, task, task)

    @property
    def digest(self) -> bytes:
        """The same for questions that differ in white space alone. Letters keep their case: formulas need it."""
        return digest(self.text)


@dataclass(frozen=True)
class LeftOut:
    """A well-formed row that is not wanted, and why, as a phrase."""

    reason: str


def digest(text: str) -> bytes:
    """A hash of a text in which white space of any kind and amount is the same."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(plain.encode(errors="surrogatepass")).digest()


def identifier(group: str, text: str) -> str:
    """`GROUP-HASH`: the same wherever the question stands. What is before the last hyphen names the group."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', group).strip('_') or 'task'}-{digest(text).hex()[:16]}"


def make_task(row: Row, *, id: str, kind: str, messages: Any, reference: Any) -> Task:
    """A task whose reference is of the shape that its kind needs. Raises DataError naming line, field and fix."""
    try:
        task = Task.model_validate({"id": id, "kind": kind, "messages": messages, "reference": reference})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise row.wrong(".".join(map(str, problem["loc"])), problem["msg"]) from error
    if not any(message.role == "user" and message.content.strip() for message in task.messages):
        raise row.wrong("messages", "no message of role 'user' has a text; give it the question")
    check_reference(row, task)
    return task


def check_reference(row: Row, task: Task) -> None:
    """Raises DataError where the reference of a kind that the protocol describes is not of its shape."""
    if task.kind in CODE_KINDS:
        try:
            parse_task(task.kind, task.reference)
        except DataError as error:
            raise row.wrong(error.field or "reference", str(error).rstrip(".")) from error
    elif task.kind in ("choice", "math"):
        answer = task.reference.get("answer")
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        if not is_number and not (isinstance(answer, str) and answer.strip()):
            raise row.wrong("reference.answer", f"task {task.id!r} has no answer to compare with; give it one")
        if task.kind == "choice" and as_letter(str(answer)) is None:
            raise row.wrong("reference.answer", f"{str(answer)[:40]!r} is not the letter of an option; give the letter")
