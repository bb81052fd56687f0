"""Which rollouts people are to see, and until when. Functions on a transaction; no HTTP."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, case, func, select, update

from services.human_feedback.tables import counters, critiques, rollouts
from shared.protocol import FeedbackItem
from shared.settings import HumanFeedbackSettings

_WRITTEN = select(func.count()).where(critiques.c.trajectory_id == rollouts.c.trajectory_id).scalar_subquery()
_QUOTA = select(counters.c.value).where(counters.c.name == "quota").scalar_subquery()
_RECKON = update(rollouts).values(open=case((rollouts.c.rank.is_not(None) & (_WRITTEN < _QUOTA), 1), else_=0))
_RECKON_THESE = _RECKON.where(rollouts.c.trajectory_id.in_(bindparam("these", expanding=True)))


def rank(item: FeedbackItem, settings: HumanFeedbackSettings) -> float | None:
    """How early a reviewer is to see the rollout, higher earlier; None: never."""
    if settings.review == "failed":
        return 0.0 if item.success is False else None
    if settings.review == "sample":
        draw = int.from_bytes(hashlib.sha256(item.trajectory_id.encode()).digest()[:8]) / 2**64
        return 0.0 if draw < settings.review_share else None
    if settings.review == "uncertain":
        return _disagreement(item) or None
    return 0.0


def reckon(db: Connection, trajectory_ids: Sequence[str] | None = None) -> None:
    """Say of these rollouts, or of all, whether they want a review: until there are as many critiques as the quota
    asks for, whoever wrote them."""
    if trajectory_ids is None:
        db.execute(_RECKON)
    else:
        db.execute(_RECKON_THESE, {"these": list(trajectory_ids)})


def _disagreement(item: FeedbackItem) -> float:
    """The standard deviation of the rewards in the rollout's group, as far as they are known."""
    rewards = [item.reward, *(sibling.reward for sibling in item.siblings)]
    successes = [item.success, *(sibling.success for sibling in item.siblings)]
    outcomes = [success if reward is None else reward for reward, success in zip(rewards, successes, strict=True)]
    known = [float(outcome) for outcome in outcomes if outcome is not None]
    return statistics.pstdev(known) if known else 0.0
