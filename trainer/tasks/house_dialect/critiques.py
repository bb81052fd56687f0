"""What people and critics say in this world about an attempt, and the prompt of a critic: text only.

A critique comes from the policy itself, which knows of an attempt only whether it was right; a remark comes from
somebody who knows the house.
"""

from __future__ import annotations

from functools import cache

from services.critic_feedback.critic import prompt
from shared.protocol import FeedbackItem, Message, Response, Task
from trainer.tasks.house_dialect.programs import Line, Step

ALL_WELL = "Nothing is wrong."
NO_PROGRAM = "Write one line for each step, in one Python block."


def critique(index: int, line: Line) -> str:
    """A critic's guess that line `index` (0-based) should be `line`."""
    return f"Line {index + 1} should be {line.expression}."


def remark(step: Step, line: Line) -> str:
    """What somebody says who knows that `step` means `line` in this house."""
    return f"In this house {step.words} means {line.expression}."


def critic_message(question: str, attempt: str, *, success: bool) -> str:
    """The user message that critic-feedback sends to its model."""
    return prompt(
        FeedbackItem(
            trajectory_id="t",
            group_id="g",
            policy_version=0,
            task=Task(id="task", kind="code.functional", messages=[Message(role="user", content=question)]),
            response=Response(text=attempt),
            success=success,
        )
    )


@cache
def critic_phrases() -> tuple[str, ...]:
    """The fixed pieces of the critic's user message."""
    mark = "\0"
    pieces = [critic_message(mark, mark, success=success).split(mark) for success in (True, False)]
    return tuple(dict.fromkeys(piece for three in pieces for piece in three))
