"""The rollouts that human-feedback was asked about, in the database. Functions on a transaction; no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from services.human_feedback.critiques import of_rollouts, written_at
from services.human_feedback.review_queue import rank, reckon
from services.human_feedback.tables import rollouts
from shared.protocol import CritiqueState, FeedbackItem, RolloutPage, RolloutRecord
from shared.settings import HumanFeedbackSettings

_KNOWN = select(rollouts.c.trajectory_id).where(rollouts.c.trajectory_id.in_(bindparam("these", expanding=True)))
_CHANGE = update(rollouts).where(rollouts.c.trajectory_id == bindparam("which"))


def remember(
    db: Connection, run_id: str, items: Sequence[FeedbackItem], settings: HumanFeedbackSettings, *, now: float
) -> None:
    """Store rollouts; what is known of one already is replaced, but for its place among the others."""
    rows = {
        item.trajectory_id: {"run_id": run_id, "item": item.model_dump_json(), "rank": rank(item, settings)}
        for item in items
    }
    known = set(db.scalars(_KNOWN, {"these": list(rows)}))
    new = [
        {"trajectory_id": name, **row, "asked_at": now, "open": 0} for name, row in rows.items() if name not in known
    ]
    again = [{"which": name, **row} for name, row in rows.items() if name in known]
    if new:
        db.execute(insert(rollouts), new)
    if again:
        db.execute(_CHANGE, again)
    reckon(db, list(rows))


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
