"""The lines of trajectories/: what was said, what the teacher saw, and what it made of each token."""

from __future__ import annotations

import math
from typing import Any

from trainer_builders import group, said, trajectory

from shared.protocol import Message
from shared.settings import TeacherPromptSettings
from trainer.batch import BatchBuilder
from trainer.trajectory_records import trajectory_records


def records_of(rows: list[Any], token_lifts: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Under a teacher prompt of bytes, with one source in the shadow and a tokenizer that cannot tell."""

    def render(messages: list[Message]) -> list[int]:
        return list("".join(m.content for m in messages).encode())

    builder = BatchBuilder(
        TeacherPromptSettings(), render=render, max_context=10_000, seed=0, shadow=frozenset({"trial"})
    )
    return list(trajectory_records(builder.build(3, [group(rows)]), token_lifts, object()))


def test_what_was_said_and_what_the_teacher_saw() -> None:
    rows = [
        trajectory(0, text="näive\u2028try", feedback=[said("wrong"), said("in the shadow", name="trial")]),
        trajectory(1, success=None, feedback=[said(None, status="abstain")]),
    ]
    first, second = records_of(rows, {})
    assert first["response"] == "näive\u2028try" and first["step"] == 3 and first["success"] is False
    assert [f["text"] for f in first["feedback"]] == ["wrong", "in the shadow"]
    assert "wrong" in first["m_step_teacher_prompt"] and "wrong" in first["e_step_teacher_prompt"]
    assert "in the shadow" not in first["m_step_teacher_prompt"]
    assert first["feedback_in_prompt"] == ["code"]
    assert second["m_step_teacher_prompt"] is None and second["reward"] is None
    assert [f["status"] for f in second["feedback"]] == ["abstain"] and second["feedback_in_prompt"] == []


def test_each_token_has_the_lift_it_was_given_and_rows_that_no_teacher_scored_have_none() -> None:
    first, second = trajectory(0), trajectory(1)
    lifts = {first.trajectory_id: [0.123456, -math.inf, -0.00001]}
    scored, unscored = records_of([first, second], lifts)
    assert (
        scored["token_lift"] == [0.1235, None, 0.0]
        and str(scored["token_lift"][2]) == "0.0"
        and len(scored["token_ends"]) == 3
    )
    assert unscored["token_lift"] is None and unscored["token_ends"] == [len(second.rollout.text)] * 3
