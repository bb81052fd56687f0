"""What student and teacher wrote in an evaluation and what was said about it; in a file, it survives being killed.

A line of the file is a rollout or a verdict on one. Both are appended, synced, before anything is asked that follows
from them, so an evaluation that was killed goes on with what it lacks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter, ValidationError

from shared.errors import DataError, InfrastructureError
from shared.protocol import Feedback, FeedbackFailure, Wire

Who = Literal["student", "teacher"]


class Key(NamedTuple):
    """An attempt: the teacher's number `sample` is its answer after it was told of the student's of that number."""

    who: Who
    task_id: str
    sample: int


class _Line(Wire):
    who: Who
    task_id: str
    sample: int

    @property
    def key(self) -> Key:
        return Key(self.who, self.task_id, self.sample)


class Written(_Line):
    """A rollout without its tokens. `informed`: whether the prompt held a context beside the question."""

    kind: Literal["rollout"] = "rollout"
    text: str
    finish_reason: Literal["stop", "length", "abort"]
    tokens: int
    informed: bool = False


class Verdict(_Line):
    """What the outcome source said. Without `success` it gave no outcome; `failure` says why where it failed."""

    kind: Literal["verdict"] = "verdict"
    success: bool | None = None
    feedback: list[Feedback] = Field(default_factory=list)
    failure: FeedbackFailure | None = None

    @property
    def why_unjudged(self) -> Literal["infra", "data", "abstained"] | None:
        """None where there is an outcome."""
        if self.success is not None:
            return None
        return "abstained" if self.failure is None else self.failure.class_


Line = Annotated[Written | Verdict, Field(discriminator="kind")]
_LINE: TypeAdapter[Written | Verdict] = TypeAdapter(Line)


class Attempts:
    """The rollouts and verdicts of one evaluation, in memory. `on_verdict` is told how many verdicts there are."""

    def __init__(self) -> None:
        self.rollouts: dict[Key, Written] = {}
        self.verdicts: dict[Key, Verdict] = {}
        self.on_verdict: Callable[[int], None] = lambda _: None

    def add(self, lines: Sequence[Written | Verdict]) -> None:
        """Take these in. Nothing is replaced: a rollout that is there stands."""
        for line in lines:
            self._take(line)
        self.on_verdict(len(self.verdicts))

    def _take(self, line: Written | Verdict) -> None:
        if isinstance(line, Written):
            self.rollouts.setdefault(line.key, line)
        else:
            self.verdicts.setdefault(line.key, line)


class AttemptsFile(Attempts):
    """Attempts that outlive this process, in a JSONL file that one process at a time may hold; for a `with` block.

    A verdict that is missing because its source failed is forgotten at the start: the rollout is judged again.
    """

    def __init__(self, path: Path) -> None:
        """Raises InfrastructureError where the file cannot be written or another process holds it, DataError where a
        line of it is none of ours."""
        super().__init__()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            self._hold()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What a full disk did not take would be written once more, and its error would hide the first one's sentence.
        with suppress(OSError):
            self._file.close()

    def add(self, lines: Sequence[Written | Verdict]) -> None:
        """Durable when it returns. Raises InfrastructureError where the disk takes no more."""
        text = "".join(f"{line.model_dump_json()}\n" for line in lines)
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._disk_error(error) from error
        super().add(lines)

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InfrastructureError(f"Another `vpd eval` writes to {self._path}: wait for it, or stop it.") from error

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        # A line that was torn by a kill would spoil the next one that is appended to it.
        self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                read = _LINE.validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"{self._path}, line {number}, is no rollout and no verdict: delete the file to start anew."
                ) from error
            if isinstance(read, Written) or read.why_unjudged != "infra":
                self._take(read)

    def _disk_error(self, error: OSError) -> InfrastructureError:
        return InfrastructureError(
            f"{self._path} cannot be written: {error.strerror or error}. Free some space and start the evaluation "
            "again: it goes on where it was."
        )
