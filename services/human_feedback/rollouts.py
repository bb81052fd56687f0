"""The rollouts that human-feedback was asked about, in the database. Functions on a transaction; no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from services.human_feedback.critiques import of_rollouts, written_at
from services.human_feedback.review_queue import rank, reckon
from services.human_feedback.tables import rollouts
from shared.protocol import CritiqueState, FeedbackItem, RolloutPage, RolloutRecord
from shared.settings import HumanFeedbackSettings


def remember(
    db: Connection, run_id: str, items: Sequence[FeedbackItem], settings: HumanFeedbackSettings, *, now: float
) -> None:
    """Store rollouts; what is known of one already is replaced, but for its place among the others."""
    ids = [item.trajectory_id for item in items]
    known = set(db.scalars(select(rollouts.c.trajectory_id).where(rollouts.c.trajectory_id.in_(ids))))
    for item in items:
        values = {"run_id": run_id, "item": item.model_dump_json(), "rank": rank(item, settings)}
        if item.trajectory_id in known:
            db.execute(update(rollouts).where(rollouts.c.trajectory_id == item.trajectory_id).values(**values))
        else:
            db.execute(insert(rollouts).values(trajectory_id=item.trajectory_id, asked_at=now, open=0, **values))
            known.add(item.trajectory_id)
    reckon(db, ids)


def get(db: Connection, trajectory_id: str) -> RolloutRecord | None:
    """One rollout with its critiques; None if neither it nor a critique is known."""
    row = db.execute(select(rollouts).where(rollouts.c.trajectory_id == trajectory_id)).mappings().one_or_none()
    written = of_rollouts(db, [trajectory_id])[trajectory_id]
    if row is None:
        return RolloutRecord(trajectory_id=trajectory_id, critiques=written) if written else None
    return _record(row, written)


def page(db: Connection, *, run_id: str | None, before: int | None, limit: int) -> RolloutPage:
    """Rollouts newest first, from below number `before`."""
    wanted = [rollouts.c.run_id == run_id] if run_id is not None else []
    wanted += [rollouts.c.number < before] if before is not None else []
    query = select(rollouts).where(*wanted).order_by(rollouts.c.number.desc()).limit(limit + 1)
    rows = db.execute(query).mappings().all()
    written = of_rollouts(db, [row["trajectory_id"] for row in rows[:limit]])
    cursor = str(rows[limit - 1]["number"]) if len(rows) > limit else None
    return RolloutPage(items=[_record(row, written[row["trajectory_id"]]) for row in rows[:limit]], next_cursor=cursor)


def _record(row: Any, written: list[CritiqueState]) -> RolloutRecord:
    return RolloutRecord(
        trajectory_id=row["trajectory_id"],
        run_id=row["run_id"],
        asked_at=written_at(row["asked_at"]),
        item=FeedbackItem.model_validate_json(row["item"]),
        critiques=written,
    )
