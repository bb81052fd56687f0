"""LiveCodeBench: the official file (`code_generation_lite`, test*.jsonl), or a list of its questions.

The official file has public and private tests. A list of questions (`question`, `kind`, `sample_tests`) has those that
the question prints; where it leaves out LeetCode's, they are read from the text.
"""

from __future__ import annotations

import json
import random
from typing import Any, TypeAlias

from shared.protocol import Task
from shared.settings import LiveCodeBenchSettings, TaskSettings
from trainer.tasks.livecodebench_tests import Case, method_name, printed_examples, read_cell
from trainer.tasks.question import LeftOut, Question, make_task
from trainer.tasks.rows import Row

Tests: TypeAlias = list[tuple[Case, bool]]
"""Tests, each with whether feedback may show it."""


def read_livecodebench(row: Row, settings: TaskSettings) -> Question | LeftOut:
    """The question of a row in the window of contest dates. Raises DataError for a row of neither form."""
    ours = settings.livecodebench
    day = _day(row)
    if not ours.from_date <= day < ours.to_date:
        return LeftOut(f"contest date outside {ours.from_date} to {ours.to_date}")
    if "question_content" in row.fields:
        return _official(row, ours, settings.split_seed)
    if "question" in row.fields:
        return _listed(row)
    raise row.wrong(
        "question_content", "is missing, and `question` too; this is neither LiveCodeBench's own file nor a list of it"
    )


def _official(row: Row, settings: LiveCodeBenchSettings, seed: int) -> Question:
    public, private = _cell(row, "public_test_cases"), _cell(row, "private_test_cases")
    if not public + private:
        raise row.wrong("private_test_cases", "holds no test, and public_test_cases neither; take the row out")
    kept = _within([*((case, True) for case in public), *((case, False) for case in private)], settings.max_tests_mb)
    training = [(case, True) for case, _ in kept]
    if settings.protocol == "tests":
        hidden = [(case, True) for case, printed in kept if not printed]
        training = _drawn(hidden, settings.training_tests, seed, row) or training
    name = _metadata(row).get("func_name") or method_name(_starter(row))
    question = row.text("question_content")
    return Question(
        question,
        training=_task(row, question, name, training),
        held_out=_task(row, question, name, kept),
        tests_left_out=len(public + private) - len(kept),
    )


def _listed(row: Row) -> Question:
    question, starter = row.text("question"), _starter(row)
    entries = row.fields.get("sample_tests") or []
    try:
        cases = read_cell(json.dumps([{"testtype": row.fields.get("kind"), **entry} for entry in entries]))
    except (TypeError, ValueError) as error:
        raise row.wrong("sample_tests", f"{error}; it is a list of objects with input and output") from None
    if row.fields.get("kind") == "functional" and not cases:
        cases = printed_examples(question, starter)
    if not cases:
        raise row.wrong("sample_tests", "holds no test, and none can be read from the question; take the row out")
    return Question.of(question, _task(row, question, method_name(starter), [(case, True) for case in cases]))


def _task(row: Row, question: str, name: str | None, tests: Tests) -> Task:
    functional = tests[0][0].functional
    if any(case.functional != functional for case, _ in tests):
        raise row.wrong("private_test_cases", "mixes tests of type stdin and functional")
    if functional and name is None:
        raise row.wrong("metadata", "names no func_name, and starter_code has no method of class Solution")
    written = [{"input": case.input, "output": case.output, "public": public} for case, public in tests]
    prompt = _method_prompt(question, _starter(row)) if functional else _program_prompt(question)
    return make_task(
        row,
        id="livecodebench-" + row.text("question_id").replace("-", "_"),
        kind="code.functional" if functional else "code.stdin",
        messages=[{"role": "user", "content": prompt}],
        reference={"tests": written} | ({"fn_name": name} if functional else {}),
    )


def _program_prompt(question: str) -> str:
    return (
        f"{question}\n\nWrite a Python program that reads the input from standard input and writes the answer to "
        "standard output. Think step by step, then give the whole program in one ```python block."
    )


def _method_prompt(question: str, starter: str) -> str:
    return (
        f"{question}\n\nComplete this Python code; keep the names and the parameters.\n\n```python\n{starter.rstrip()}"
        "\n```\n\nThink step by step, then give the whole code in one ```python block."
    )


def _within(tests: Tests, max_mb: float) -> Tests:
    """Without the largest, so that the rest is no larger than `max_mb`; at least one is kept."""
    total = sum(case.bytes for case, _ in tests)
    by_size = sorted(range(len(tests)), key=lambda place: tests[place][0].bytes)
    while total > max_mb * 1e6 and len(by_size) > 1:
        total -= tests[by_size.pop()][0].bytes
    return [tests[place] for place in sorted(by_size)]


def _drawn(tests: Tests, share: float, seed: int, row: Row) -> Tests:
    """A seeded share of the tests, at least one if there is one, in their order."""
    count = min(len(tests), max(1, int(len(tests) * share)))
    places = random.Random(f"tests:{seed}:{row.text('question_id')}").sample(range(len(tests)), count)
    return [tests[place] for place in sorted(places)]


def _cell(row: Row, field: str) -> list[Case]:
    try:
        return read_cell(row.text(field))
    except ValueError as error:
        raise row.wrong(field, f"{error}; download the file again") from None


def _metadata(row: Row) -> dict[str, Any]:
    text = row.fields.get("metadata") or "{}"
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise row.wrong("metadata", "holds no JSON object; download the file again")
    return found


def _starter(row: Row) -> str:
    starter = row.fields.get("starter_code") or ""
    if not isinstance(starter, str):
        raise row.wrong("starter_code", "is no text")
    return starter


def _day(row: Row) -> str:
    """Contest date as YYYY-MM-DD; a data set of the hub may give a datetime."""
    value = row.fields.get("contest_date")
    day = str(value)[:10]
    if value is None or len(day) != 10 or not day[:4].isdigit() or day[4] + day[7] != "--":
        raise row.wrong("contest_date", "is no date like 2025-02-01T00:00:00")
    return day
