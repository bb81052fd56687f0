"""Mathematics with a short answer: MATH-500, AIME and the like (`problem`, `answer`), DAPO-Math, GSM8K.

DAPO's rows have a `prompt` with an instruction around the problem, which is taken off: all problems get the one of the
settings, and a problem is the same question wherever it comes from.
"""

from __future__ import annotations

from typing import Any

from shared.settings import TaskSettings
from trainer.tasks.question import Question, identifier, make_task
from trainer.tasks.rows import Row

_PROBLEMS = ("problem", "question", "prompt")
_DAPO_BEFORE = "Solve the following math problem step by step."
_DAPO_AFTER = 'Remember to put your answer on its own line after "Answer:".'


def read_math(row: Row, settings: TaskSettings) -> Question:
    """The question of a row. Raises DataError for one without a problem or an answer."""
    problem, answer = _problem(row), _answer(row)
    task = make_task(
        row,
        id=identifier(row.data, problem),
        kind="math",
        messages=[{"role": "user", "content": f"{problem}\n\n{settings.math.instruction}"}],
        reference={"answer": answer},
    )
    return Question.of(problem, task)


def _problem(row: Row) -> str:
    field = next((name for name in _PROBLEMS if row.fields.get(name)), None)
    if field is None:
        raise row.wrong("problem", f"is missing; a row has one of {', '.join(_PROBLEMS)}")
    if not isinstance(row.fields[field], list):
        return _without_instruction(row.text(field))
    messages = [message for message in row.fields[field] if isinstance(message, dict)]
    asked = [message["content"] for message in messages if message.get("role") == "user" and message.get("content")]
    if len(asked) != 1 or not isinstance(asked[0], str):
        raise row.wrong(field, "is not a chat with one message of role 'user'")
    return _without_instruction(asked[0])


def _without_instruction(problem: str) -> str:
    if problem.startswith(_DAPO_BEFORE) and problem.rstrip().endswith(_DAPO_AFTER):
        problem = problem.rstrip().removesuffix(_DAPO_AFTER).partition("\n\n")[2]
    return problem.strip()


def _answer(row: Row) -> str:
    reward = row.fields.get("reward_model")
    value: Any = row.fields.get("answer")
    if value is None and isinstance(reward, dict):
        value = reward.get("ground_truth")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if not isinstance(value, str) or not value.strip():
        raise row.wrong("answer", "has no text, and reward_model.ground_truth neither; give the final answer")
    # GSM8K's answers are worked out; the final one stands behind the mark.
    return value.rpartition("####")[2].strip() or value.strip()
