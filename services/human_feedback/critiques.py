"""Critiques in the database: written, read, and what became of them. Functions on a transaction; no HTTP."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update

from services.human_feedback.review_queue import reckon
from services.human_feedback.tables import counters, critiques
from shared.errors import DataError
from shared.protocol import Critique, CritiquePage, CritiqueState, CritiqueUse

_THIS = (critiques.c.trajectory_id == bindparam("about")) & (critiques.c.identifier == bindparam("writer"))
_ONE = select(critiques).where(_THIS)
_ONE_BY_ID = select(critiques).where(critiques.c.critique_id == bindparam("wanted"))
_OF_THESE = (
    select(critiques)
    .where(critiques.c.trajectory_id.in_(bindparam("these", expanding=True)))
    .order_by(critiques.c.identifier)
)
_CHANGE = update(critiques).where(_THIS)
_NEXT_SEQ = (
    update(counters).where(counters.c.name == "seq").values(value=counters.c.value + 1).returning(counters.c.value)
)


class NotAsExpected(DataError):
    """The critique is not at the version that the writer has seen."""


@dataclass(frozen=True)
class Expected:
    """What a writer knows (`If-Match`, `If-None-Match`): one of the versions `seqs`, None for any; or that there is no
    critique yet. Without either, whatever is there is written over."""

    match: bool = False
    seqs: frozenset[int] | None = None
    absent: bool = False

    def check(self, seq: int | None) -> None:
        """Raise NotAsExpected unless version `seq` (None: there is none) is what the writer knows."""
        if self.absent and seq is not None:
            raise NotAsExpected("There is such a critique already.", field="If-None-Match")
        if self.match and (seq is None or (self.seqs is not None and seq not in self.seqs)):
            raise NotAsExpected("The critique has changed since it was read: read it again.", field="If-Match")


def expected(if_match: str | None, if_none_match: str | None) -> Expected:
    """Read the two headers. Raises DataError for what our ETags never look like."""
    if if_none_match is not None and if_none_match.strip() != "*":
        raise DataError("If-None-Match takes * alone: create, and never change.", field="If-None-Match")
    if if_match is None or if_match.strip() == "*":
        return Expected(match=if_match is not None, absent=if_none_match is not None)
    tags = [re.fullmatch(r'(?:W/)?"([0-9]{1,18})"', tag.strip()) for tag in if_match.split(",")]
    seqs = frozenset(int(tag[1]) for tag in tags if tag is not None)
    return Expected(match=True, seqs=seqs, absent=if_none_match is not None)


def put(
    db: Connection, trajectory_id: str, identifier: str, critique: Critique, *, now: float, expected: Expected
) -> tuple[CritiqueState, bool]:
    """Store a critique; True if it is new. A changed one is queued again, the same one stays as it is."""
    known = get(db, trajectory_id, identifier)
    expected.check(known.seq if known is not None else None)
    if known is not None and known.critique == critique:
        return known, False
    row = {
        "trajectory_id": trajectory_id,
        "identifier": identifier,
        "critique_id": known.critique_id if known is not None else f"c-{uuid.uuid4().hex}",
        "critique": critique.model_dump_json(),
        "status": "queued",
        "step": None,
        "policy_version": None,
        "reason": None,
        "seq": db.scalar(_NEXT_SEQ),
        "updated_at": now,
    }
    if known is None:
        db.execute(insert(critiques), row)
        reckon(db, [trajectory_id])
    else:
        db.execute(_CHANGE, row | _which(trajectory_id, identifier))
    return _state(row), known is None


def get(db: Connection, trajectory_id: str, identifier: str) -> CritiqueState | None:
    """One critique."""
    return _one(db, _ONE, _which(trajectory_id, identifier))


def get_by_id(db: Connection, critique_id: str) -> CritiqueState | None:
    """One critique."""
    return _one(db, _ONE_BY_ID, {"wanted": critique_id})


def forget(db: Connection, trajectory_id: str, identifier: str, *, expected: Expected) -> bool:
    """Delete a critique; False if there was none."""
    known = get(db, trajectory_id, identifier)
    expected.check(known.seq if known is not None else None)
    db.execute(delete(critiques).where(_THIS), _which(trajectory_id, identifier))
    reckon(db, [trajectory_id])
    return known is not None


def use(
    db: Connection, trajectory_id: str, identifier: str, use: CritiqueUse, *, seq: int | None, now: float
) -> CritiqueState | None:
    """Record what became of a critique, if it is still the one written as `seq` (None: whichever it is); the critique
    as it is then. Its `seq` stays."""
    written = _CHANGE if seq is None else _CHANGE.where(critiques.c.seq == seq)
    # PostgreSQL's texts hold no NUL.
    fate = use.model_dump() | {"reason": use.reason and use.reason.replace("\0", "")}
    db.execute(written, fate | {"updated_at": now} | _which(trajectory_id, identifier))
    return get(db, trajectory_id, identifier)


def page(
    db: Connection,
    *,
    after: int,
    limit: int,
    run_id: str | None = None,
    trajectory_id: str | None = None,
    status: str | None = None,
) -> CritiquePage:
    """Critiques written after `after`, in the order of their last writes, of trajectories whose id starts with
    `run_id`."""
    wanted = [critiques.c.seq > after]
    wanted += [func.substr(critiques.c.trajectory_id, 1, len(run_id)) == run_id] if run_id is not None else []
    wanted += [critiques.c.trajectory_id == trajectory_id] if trajectory_id is not None else []
    wanted += [critiques.c.status == status] if status is not None else []
    query = select(critiques).where(*wanted).order_by(critiques.c.seq).limit(limit + 1)
    found = [_state(row) for row in db.execute(query).mappings()]
    return CritiquePage(items=found[:limit], next_cursor=str(found[limit - 1].seq) if len(found) > limit else None)


def newest_of(db: Connection, identifier: str, limit: int) -> list[CritiqueState]:
    """The last critiques under this identifier, which is the reviewer's where they were submitted in a review."""
    mine = select(critiques).where(critiques.c.identifier == identifier)
    return [_state(row) for row in db.execute(mine.order_by(critiques.c.seq.desc()).limit(limit)).mappings()]


def of_rollouts(db: Connection, trajectory_ids: Sequence[str]) -> dict[str, list[CritiqueState]]:
    """The critiques of each, in the order of their identifiers."""
    found: dict[str, list[CritiqueState]] = {trajectory_id: [] for trajectory_id in trajectory_ids}
    for row in db.execute(_OF_THESE, {"these": list(found)}).mappings():
        found[row["trajectory_id"]].append(_state(row))
    return found


def written_at(seconds: float) -> str:
    """A time as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _which(trajectory_id: str, identifier: str) -> dict[str, Any]:
    return {"about": trajectory_id, "writer": identifier}


def _one(db: Connection, query: Select[Any], wanted: Mapping[str, Any]) -> CritiqueState | None:
    row = db.execute(query, wanted).mappings().one_or_none()
    return None if row is None else _state(row)


def _state(row: Any) -> CritiqueState:
    parsed = {"critique": Critique.model_validate_json(row["critique"]), "updated_at": written_at(row["updated_at"])}
    return CritiqueState.model_validate({**row, **parsed})
