"""Critiques and the rollouts they are about, in one SQLite file; nothing here knows HTTP.

A write is on the disk (write-ahead log, `synchronous=FULL`) when its call returns. All calls run on one thread of
their own, off the event loop, in the order they came.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from shared.errors import InfrastructureError
from shared.protocol import Critique, CritiqueState, CritiqueUse, FeedbackItem, RolloutPage, RolloutRecord

BUSY_TIMEOUT_S = 5.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS sequence (value INTEGER NOT NULL);
INSERT INTO sequence SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM sequence);
CREATE TABLE IF NOT EXISTS critiques (
    trajectory_id TEXT NOT NULL, identifier TEXT NOT NULL, critique TEXT NOT NULL, status TEXT NOT NULL,
    step INTEGER, reason TEXT, seq INTEGER NOT NULL UNIQUE, updated_at TEXT NOT NULL,
    PRIMARY KEY (trajectory_id, identifier));
CREATE TABLE IF NOT EXISTS rollouts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, trajectory_id TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL,
    item TEXT NOT NULL, asked_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS rollouts_of_run ON rollouts (run_id, number);
"""
STATE = "trajectory_id, identifier, critique, status, step, reason, seq, updated_at"

Result = TypeVar("Result")


class CritiqueStore:
    """The store at `path`; `open` it before use. Every method raises InfrastructureError when the file fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="critique-store")
        self._open_db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Make the file and its tables if they are not there."""
        await self._run(self._connect)

    async def close(self) -> None:
        """Close the file."""
        if self._open_db is not None:
            await self._run(self._open_db.close)
        self._thread.shutdown()

    async def check(self) -> str | None:
        """Readiness: whether the file can be read and written."""
        await self._run(self._touch)
        return None

    async def put(self, trajectory_id: str, identifier: str, critique: Critique) -> tuple[CritiqueState, bool]:
        """Store a critique; True if it is new. A changed one is queued again, the same one stays as it is."""
        return await self._run(lambda: self._put(trajectory_id, identifier, critique))

    async def get(self, trajectory_id: str, identifier: str) -> CritiqueState | None:
        """One critique."""
        where = "WHERE trajectory_id = ? AND identifier = ?"
        found = await self._run(lambda: self._critiques(where, (trajectory_id, identifier)))
        return found[0] if found else None

    async def delete(self, trajectory_id: str, identifier: str) -> bool:
        """Forget a critique; False if there was none."""
        return await self._run(lambda: self._delete(trajectory_id, identifier))

    async def use(self, trajectory_id: str, identifier: str, use: CritiqueUse, seq: int | None) -> CritiqueState | None:
        """Record what became of a critique, if it is still the one written as `seq` (None: whichever it is); the
        critique as it is then. Its `seq` stays."""
        return await self._run(lambda: self._use(trajectory_id, identifier, use, seq))

    async def after(self, seq: int, run_id: str, limit: int) -> list[CritiqueState]:
        """Critiques written after `seq`, oldest first, of trajectories whose id starts with `run_id`."""
        where = "WHERE seq > ? AND substr(trajectory_id, 1, length(?)) = ? ORDER BY seq LIMIT ?"
        return await self._run(lambda: self._critiques(where, (seq, run_id, run_id, limit)))

    async def ask(self, run_id: str, items: Sequence[FeedbackItem]) -> dict[str, list[CritiqueState]]:
        """Store the rollouts; the critiques that are there already, in the order of their identifiers."""
        return await self._run(lambda: self._ask(run_id, items))

    async def rollout(self, trajectory_id: str) -> RolloutRecord | None:
        """One rollout with its critiques; None if neither it nor a critique is known."""
        return await self._run(lambda: self._rollout(trajectory_id))

    async def rollouts(self, run_id: str | None, before: int | None, limit: int) -> RolloutPage:
        """Rollouts newest first, from below number `before`."""
        return await self._run(lambda: self._page(run_id, before, limit))

    async def _run(self, call: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (sqlite3.Error, OSError) as error:
            raise InfrastructureError(f"The critique store {self.path} failed: {error}.") from error

    def _connect(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open_db = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._open_db.execute("PRAGMA journal_mode=WAL")
        self._open_db.execute("PRAGMA synchronous=FULL")
        self._open_db.executescript(SCHEMA)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._open_db is None:
            raise sqlite3.ProgrammingError("it is not open")
        return self._open_db

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _touch(self) -> None:
        with self._transaction():
            self._db.execute("UPDATE sequence SET value = value")

    def _put(self, trajectory_id: str, identifier: str, critique: Critique) -> tuple[CritiqueState, bool]:
        key = (trajectory_id, identifier)
        with self._transaction():
            known = self._critiques("WHERE trajectory_id = ? AND identifier = ?", key)
            if known and known[0].critique == critique:
                return known[0], False
            (seq,) = self._db.execute("UPDATE sequence SET value = value + 1 RETURNING value").fetchall()[0]
            state = CritiqueState(
                trajectory_id=trajectory_id, identifier=identifier, critique=critique, seq=seq, updated_at=_now()
            )
            self._db.execute(
                "INSERT OR REPLACE INTO critiques VALUES (?, ?, ?, 'queued', NULL, NULL, ?, ?)",
                (*key, critique.model_dump_json(), seq, state.updated_at),
            )
        return state, not known

    def _delete(self, trajectory_id: str, identifier: str) -> bool:
        key = (trajectory_id, identifier)
        with self._transaction():
            return (
                self._db.execute("DELETE FROM critiques WHERE trajectory_id = ? AND identifier = ?", key).rowcount > 0
            )

    def _use(self, trajectory_id: str, identifier: str, use: CritiqueUse, seq: int | None) -> CritiqueState | None:
        key = (trajectory_id, identifier)
        with self._transaction():
            self._db.execute(
                "UPDATE critiques SET status = ?, step = ?, reason = ?, updated_at = ?"
                " WHERE trajectory_id = ? AND identifier = ? AND seq = coalesce(?, seq)",
                (use.status, use.step, use.reason, _now(), *key, seq),
            )
            found = self._critiques("WHERE trajectory_id = ? AND identifier = ?", key)
        return found[0] if found else None

    def _ask(self, run_id: str, items: Sequence[FeedbackItem]) -> dict[str, list[CritiqueState]]:
        now = _now()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO rollouts (trajectory_id, run_id, item, asked_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (trajectory_id) DO UPDATE SET run_id = excluded.run_id, item = excluded.item",
                [(item.trajectory_id, run_id, item.model_dump_json(), now) for item in items],
            )
            return {item.trajectory_id: self._critiques_of(item.trajectory_id) for item in items}

    def _rollout(self, trajectory_id: str) -> RolloutRecord | None:
        rows = self._db.execute(
            "SELECT trajectory_id, run_id, item, asked_at FROM rollouts WHERE trajectory_id = ?", (trajectory_id,)
        ).fetchall()
        if rows:
            return self._record(rows[0])
        critiques = self._critiques_of(trajectory_id)
        return RolloutRecord(trajectory_id=trajectory_id, critiques=critiques) if critiques else None

    def _page(self, run_id: str | None, before: int | None, limit: int) -> RolloutPage:
        rows = self._db.execute(
            "SELECT trajectory_id, run_id, item, asked_at, number FROM rollouts"
            " WHERE (?1 IS NULL OR run_id = ?1) AND (?2 IS NULL OR number < ?2) ORDER BY number DESC LIMIT ?3",
            (run_id, before, limit + 1),
        ).fetchall()
        cursor = str(rows[limit - 1][4]) if len(rows) > limit else None
        return RolloutPage(items=[self._record(row) for row in rows[:limit]], next_cursor=cursor)

    def _record(self, row: tuple[str, ...]) -> RolloutRecord:
        trajectory_id, run_id, item, asked_at = row[:4]
        return RolloutRecord(
            trajectory_id=trajectory_id,
            run_id=run_id,
            asked_at=asked_at,
            item=FeedbackItem.model_validate_json(item),
            critiques=self._critiques_of(trajectory_id),
        )

    def _critiques_of(self, trajectory_id: str) -> list[CritiqueState]:
        return self._critiques("WHERE trajectory_id = ? ORDER BY identifier", (trajectory_id,))

    def _critiques(self, where: str, values: tuple[str | int, ...]) -> list[CritiqueState]:
        names = STATE.split(", ")
        rows = self._db.execute(f"SELECT {STATE} FROM critiques {where}", values).fetchall()
        return [
            CritiqueState.model_validate(
                {**dict(zip(names, row, strict=True)), "critique": Critique.model_validate_json(row[2])}
            )
            for row in rows
        ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
