"""Task sources that are data: read whole, every row accounted for, and split so that nothing leaks.

A row is a task, left out for a reason, or a mistake. A question is a task once, however often it is a row, and a
held-out question is no training task.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.errors import DataError, SettingsError
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks.huggingface import read_columns
from trainer.tasks.jsonl import read_own
from trainer.tasks.livecodebench import read_livecodebench
from trainer.tasks.math import read_math
from trainer.tasks.question import LeftOut, Question
from trainer.tasks.rows import Row, Rows, open_splits
from trainer.tasks.sciknoweval import read_sciknoweval

Read = Callable[[Row, TaskSettings], Question | LeftOut]
FORMATS: dict[str, Read] = {
    "livecodebench": read_livecodebench,
    "sciknoweval": read_sciknoweval,
    "math": read_math,
    "hf": read_columns,
}
"""By the word before the colon of `tasks.source`; a source without one is a user's own file."""

DUPLICATE = "the same question as a row before"
HELD_OUT = "a held-out question"
OVER_LIMIT = "more than tasks.limit"


@dataclass
class Reading:
    """What became of the rows of one split."""

    name: str
    rows: int = 0
    questions: list[Question] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    mistakes: list[DataError] = field(default_factory=list)

    def less(self, kept: list[Question], questions: list[Question], reason: str) -> list[Question]:
        """`kept`, with the other ones of `questions` counted as left out for `reason`."""
        if len(kept) < len(questions):
            self.left_out[reason] += len(questions) - len(kept)
        return kept

    @property
    def tasks(self) -> int:
        """Rows that are tasks, in training or held out: all that are neither left out nor wrong."""
        return self.rows - self.left_out.total() - len(self.mistakes)

    @property
    def tests_left_out(self) -> int:
        """Tests of all questions that are larger than may be."""
        return sum(question.tests_left_out for question in self.questions)


@dataclass(frozen=True)
class Loaded:
    """Training and held-out tasks, and the readings that they come from: one, or the training one and the other."""

    readings: list[Reading]
    training: list[Task]
    held_out: list[Task]

    @property
    def mistakes(self) -> list[DataError]:
        """Of all readings."""
        return [mistake for reading in self.readings for mistake in reading.mistakes]


def load_data(settings: TaskSettings) -> Loaded:
    """Read and split. Mistakes are in the result.

    Raises SettingsError where there is nothing to read, a library is missing, or no task is left for one of the sets.
    """
    splits, read = _open(settings.source, "tasks.source")
    if settings.held_out is not None:
        others, read_other = _open(settings.held_out, "tasks.held_out")
        name = _one_of(others, ("test", "validation", "val", "valid", "dev"), settings.held_out, "tasks.held_out")
        held_out: Reading | None = _read(f"{settings.held_out} {name}", others[name](), read_other, settings)
    else:
        name = next((split for split in ("test", "validation") if split in splits and "train" in splits), "")
        held_out = _read(f"{settings.source} {name}", splits[name](), read, settings) if name else None
    name = _one_of(splits, ("train",), settings.source, "tasks.source")
    training = _read(f"{settings.source} {name}", splits[name](), read, settings)
    if settings.source.startswith("livecodebench:") and settings.livecodebench.protocol == "tests":
        return _all_in_both(training, held_out, settings)
    return _drawn(training, settings) if held_out is None else _apart(training, held_out, settings)


def _open(source: str, setting: str) -> tuple[dict[str, Callable[[], Rows]], Read]:
    word, colon, address = source.partition(":")
    if colon and word in FORMATS:
        return open_splits(address, setting), FORMATS[word]
    return open_splits(source, setting), read_own


def _one_of(splits: Iterable[str], wanted: tuple[str, ...], source: str, setting: str) -> str:
    names = list(splits)
    found = names[0] if len(names) == 1 else next((name for name in wanted if name in names), None)
    if found is None or (len(names) > 1 and "" in names):
        there = ", ".join(filter(None, names))
        others = " and files of no split" if "" in names else ""
        raise SettingsError(f"{setting}: {source} has the splits {there}{others}; name one, as {source}@{max(names)}.")
    return found


def _read(name: str, rows: Rows, read: Read, settings: TaskSettings) -> Reading:
    reading = Reading(name.strip())
    seen: set[bytes] = set()
    places: dict[str, str] = {}
    for row in rows:
        reading.rows += 1
        try:
            question = _question(row, read, settings)
            if isinstance(question, LeftOut):
                reading.left_out[question.reason] += 1
            elif question.digest in seen:
                reading.left_out[DUPLICATE] += 1
            else:
                assert isinstance(row, Row)
                _refuse_known(row, question.training.id, places)
                seen.add(question.digest)
                reading.questions.append(question)
        except DataError as mistake:
            reading.mistakes.append(mistake)
    if not reading.rows:
        raise SettingsError(f"{reading.name} holds no task; write one JSON task a line.")
    return reading


def _question(row: Row | DataError, read: Read, settings: TaskSettings) -> Question | LeftOut:
    if isinstance(row, DataError):
        raise row
    question = read(row, settings)
    limit = settings.max_prompt_chars
    if isinstance(question, Question) and limit is not None:
        longest = max(sum(len(m.content) for m in task.messages) for task in (question.training, question.held_out))
        return LeftOut("a prompt over tasks.max_prompt_chars") if longest > limit else question
    return question


def _refuse_known(row: Row, id: str, places: dict[str, str]) -> None:
    if id in places:
        raise row.wrong("id", f"{id!r} is already the id of {places[id]}; give every task an id of its own")
    places[id] = row.place


# --------------------------------------------------------------------------------------------------------- splits


def _drawn(reading: Reading, settings: TaskSettings) -> Loaded:
    """A seeded share of the questions, at least one, is held out; the rest, in their order, is for training."""
    questions = reading.questions
    if len(questions) < 2 and not reading.mistakes:
        raise SettingsError(
            f"{reading.name} holds {_only(reading)}, so none can be held out; add tasks or set tasks.held_out."
        )
    order = list(range(len(questions)))
    random.Random(f"held out:{settings.split_seed}").shuffle(order)
    held_out = order[: max(1, round(len(questions) * settings.held_out_share))]
    rest = [questions[place] for place in sorted(order[len(held_out) :])]
    kept = reading.less(rest[: settings.limit], rest, OVER_LIMIT)
    return Loaded(
        [reading],
        training=[question.training for question in kept],
        held_out=[questions[place].held_out for place in held_out],
    )


def _apart(training: Reading, held_out: Reading, settings: TaskSettings) -> Loaded:
    """Questions that are held out are left out of training."""
    known = {question.digest for question in held_out.questions}
    apart = [question for question in training.questions if question.digest not in known]
    training.less(apart, training.questions, HELD_OUT)
    kept = training.less(apart[: settings.limit], apart, OVER_LIMIT)
    for reading, questions in ((training, kept), (held_out, held_out.questions)):
        if not questions and not reading.mistakes:
            raise SettingsError(f"{reading.name} holds {_only(reading)}; look at the settings below tasks.")
    for id in {question.training.id for question in kept} & {question.held_out.id for question in held_out.questions}:
        held_out.mistakes.append(
            DataError(
                f"{held_out.name}: {id!r} is also the id of a task in {training.name}; give it another.", field="id"
            )
        )
    return Loaded(
        [training, held_out],
        training=[question.training for question in kept],
        held_out=[question.held_out for question in held_out.questions],
    )


def _all_in_both(reading: Reading, held_out: Reading | None, settings: TaskSettings) -> Loaded:
    """The paper's protocol on LiveCodeBench: the same questions, with a part of their tests and with all of them."""
    if held_out is not None:
        raise SettingsError(
            "tasks.livecodebench.protocol 'tests' holds out the questions of tasks.source; leave tasks.held_out out."
        )
    if not reading.questions and not reading.mistakes:
        raise SettingsError(f"{reading.name} holds {_only(reading)}; look at the settings below tasks.livecodebench.")
    return Loaded(
        [reading],
        training=[question.training for question in reading.questions[: settings.limit]],
        held_out=[question.held_out for question in reading.questions],
    )


def _only(reading: Reading) -> str:
    reasons = ", ".join(f"{rows} with {reason}" for reason, rows in reading.left_out.most_common(3))
    found = "one task" if reading.questions else "no task"
    return f"{found}{f' (left out: {reasons})' if reasons else ''}"
