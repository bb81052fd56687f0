"""The lines of trajectories/step_N.jsonl: what was asked, answered, said about it, and what the teacher made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shared.protocol import Feedback
from trainer.algorithms.watch import TokenLifts
from trainer.batch import Batch, Row
from trainer.run_directory import Record
from trainer.token_ends import token_ends

_SAID = ("feedback_id", "status", "reward", "success", "text", "source", "error", "latency_ms")
_DECIMALS = 4


def trajectory_records(batch: Batch, token_lifts: TokenLifts, tokenizer: Any) -> Iterator[Record]:
    """One for each row, in their order; the fields are in docs/run-files.md."""
    for row in batch.rows:
        yield _record(row, batch.step) | _tokens(row, token_lifts, tokenizer)


def _record(row: Row, step: int) -> Record:
    trajectory = row.trajectory
    return {
        "trajectory_id": trajectory.trajectory_id,
        "group_id": row.group.group_id,
        "task_id": row.group.task.id,
        "step": step,
        "late": row.late,
        "policy_version": row.group.policy_version,
        "prompt": [m.model_dump() for m in row.group.task.messages],
        "response": trajectory.rollout.text,
        "finish_reason": trajectory.rollout.finish_reason,
        "tokens": len(trajectory.rollout.token_ids),
        "reward": trajectory.reward,
        "success": trajectory.success,
        "feedback": [_said(f) for f in trajectory.feedback],
        "m_step_teacher_prompt": row.m_prompt.text if row.m_prompt else None,
        "e_step_teacher_prompt": row.e_prompt.text if row.e_prompt else None,
        "feedback_chars_cut": row.m_prompt.feedback_chars_cut if row.m_prompt else 0,
        "feedback_in_prompt": list(row.m_prompt.sources) if row.m_prompt else [],
    }


def _said(feedback: Feedback) -> Record:
    return {k: v for k, v in feedback.model_dump(mode="json").items() if k in _SAID and v is not None}


def _tokens(row: Row, token_lifts: TokenLifts, tokenizer: Any) -> Record:
    rollout = row.trajectory.rollout
    lifts = token_lifts.get(row.trajectory.trajectory_id)
    return {
        "token_ends": token_ends(tokenizer, rollout.token_ids, rollout.text),
        "token_lift": None if lifts is None else [_rounded(nats) for nats in lifts],
    }


def _rounded(nats: float) -> float | None:
    """JSON has no number that is not finite; -0.0 is written as 0.0."""
    return round(nats, _DECIMALS) + 0.0 if math.isfinite(nats) else None
