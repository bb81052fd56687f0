"""The tables of human-feedback, the same in SQLite and in PostgreSQL.

Whole values (a critique, a feedback item, a draft) are JSON texts; beside them stand the columns that are searched.
Times are seconds since 1970. The statements of every request are made once, with parameters: to build one takes longer
than to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Float, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()

# name -> value: `seq` counts the writes of critiques, `schema` says which release made the tables.
counters = Table(
    "human_counters", metadata, Column("name", Text, primary_key=True), Column("value", BigInteger, nullable=False)
)

critiques = Table(
    "human_critiques",
    metadata,
    Column("trajectory_id", Text, primary_key=True),
    Column("identifier", Text, primary_key=True),
    Column("critique_id", Text, nullable=False, unique=True),
    Column("critique", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("step", BigInteger),
    Column("policy_version", BigInteger),
    Column("reason", Text),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("updated_at", Float, nullable=False),
)

# `rank` is None where people are not to see the rollout; `open` is 1 while it wants a review. Higher ranks come first,
# and newer rollouts before older ones: a late critique may train nothing.
rollouts = Table(
    "human_rollouts",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("trajectory_id", Text, nullable=False, unique=True),
    Column("run_id", Text, nullable=False),
    Column("item", Text, nullable=False),
    Column("asked_at", Float, nullable=False),
    Column("rank", Float),
    Column("open", Integer, nullable=False),
)
Index("human_rollouts_of_run", rollouts.c.run_id, rollouts.c.number)
Index("human_rollouts_queue", rollouts.c.open, rollouts.c.rank, rollouts.c.number)
Index("human_rollouts_queue_of_run", rollouts.c.run_id, rollouts.c.open, rollouts.c.rank, rollouts.c.number)

# `state`: held, submitted, skipped, requeued, or lapsed: its lease ended and another took the rollout.
claims = Table(
    "human_claims",
    metadata,
    Column("claim_id", Text, primary_key=True),
    Column("trajectory_id", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
)
# The database itself refuses that two people hold one rollout.
_HELD = text("state = 'held'")
Index("human_claims_held", claims.c.trajectory_id, unique=True, sqlite_where=_HELD, postgresql_where=_HELD)
Index("human_claims_of_rollout", claims.c.trajectory_id, claims.c.reviewer)
Index("human_claims_of_reviewer", claims.c.reviewer, claims.c.state)

drafts = Table(
    "human_drafts",
    metadata,
    Column("reviewer", Text, primary_key=True),
    Column("trajectory_id", Text, primary_key=True),
    Column("draft", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
)

# Answers under an idempotency key; `key` and `request` are digests.
answers = Table(
    "human_answers",
    metadata,
    Column("key", Text, primary_key=True),
    Column("request", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("answered_at", Float, nullable=False),
)

# Questions that wait for people, until `deadline`.
jobs = Table(
    "human_jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("items", Text, nullable=False),
    Column("deadline", Float, nullable=False),
)

# SHA-256 of the key of a scope.
keys = Table("human_keys", metadata, Column("scope", Text, primary_key=True), Column("digest", Text, nullable=False))


def upsert(db: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row, or change the one that has its primary key."""
    db.execute(_upsert(db.dialect.name, table, tuple(values)), values)


@cache
def _upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Any:
    statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    key = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in names if name not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=changed)
