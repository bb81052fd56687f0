"""Makes the tables, and brings what an earlier release stored into them."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

from sqlalchemy import Connection, insert, inspect, select, text, update

from services.human_feedback.review_queue import rank, reckon
from services.human_feedback.tables import counters, critiques, metadata, rollouts, upsert
from shared.errors import InfrastructureError
from shared.protocol import FeedbackItem
from shared.settings import HumanFeedbackSettings

SCHEMA = 1
VERDICTS = {True: "correct", False: "incorrect", None: None}


def prepare(db: Connection, settings: HumanFeedbackSettings) -> None:
    """Make what is missing. Raises InfrastructureError if a later release made the tables."""
    metadata.create_all(db)
    for index in (index for table in metadata.sorted_tables for index in table.indexes):
        index.create(db, checkfirst=True)  # an earlier release may have made the table without it
    version = db.scalar(select(counters.c.value).where(counters.c.name == "schema"))
    if version is None:
        db.execute(insert(counters), [{"name": "schema", "value": SCHEMA}, {"name": "seq", "value": 0}])
        if inspect(db).has_table("critiques"):
            _take_over(db, settings)
    elif version > SCHEMA:
        raise InfrastructureError(
            f"The critique store has schema {version} of a later release, this one knows {SCHEMA}: take the later "
            "release, or point human_feedback.database elsewhere."
        )
    upsert(db, counters, {"name": "quota", "value": settings.reviews_per_rollout})
    reckon(db)


def _take_over(db: Connection, settings: HumanFeedbackSettings) -> None:
    """Move the rows of tables `critiques` and `rollouts`, which knew no reviews; then drop them."""
    for row in db.execute(text("SELECT * FROM critiques")).mappings().all():
        old = json.loads(row["critique"])
        verdict = VERDICTS[old.pop("success", None)]
        db.execute(
            insert(critiques).values(
                **{name: row[name] for name in ("trajectory_id", "identifier", "status", "step", "reason", "seq")},
                critique_id=f"c-{uuid.uuid4().hex}",
                critique=json.dumps(old | {"verdict": verdict}),
                policy_version=row["step"] + 1 if row["status"] == "used" else None,
                updated_at=datetime.fromisoformat(row["updated_at"]).timestamp(),
            )
        )
    for row in db.execute(text("SELECT * FROM rollouts ORDER BY number")).mappings().all():
        item = FeedbackItem.model_validate_json(row["item"])
        db.execute(
            insert(rollouts).values(
                **{name: row[name] for name in ("number", "trajectory_id", "run_id", "item")},
                asked_at=datetime.fromisoformat(row["asked_at"]).timestamp(),
                rank=rank(item, settings),
                open=0,
            )
        )
    (last,) = db.execute(text("SELECT value FROM sequence")).one()
    db.execute(update(counters).where(counters.c.name == "seq").values(value=last))
    for table in ("critiques", "rollouts", "sequence"):
        db.execute(text(f"DROP TABLE {table}"))
