"""Review work in the database: claims, leases, drafts, progress. Functions on a transaction; no HTTP.

`now` is a parameter everywhere, in seconds since 1970.
"""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, exists, func, select, update

from services.human_feedback import critiques
from services.human_feedback.critiques import Expected, written_at
from services.human_feedback.tables import claims, drafts, rollouts, upsert
from shared.errors import DataError
from shared.protocol import Critique, CritiqueState, FeedbackItem
from shared.review_protocol import Claim, Draft, Progress, ReviewTask

_CLAIM = select(claims).where(claims.c.claim_id == bindparam("which"))
_CHANGE = update(claims).where(claims.c.claim_id == bindparam("which"))
_LAPSE_OTHERS = update(claims).where(
    claims.c.trajectory_id == bindparam("about"), claims.c.state == "held", claims.c.claim_id != bindparam("but")
)
_ROLLOUT = select(rollouts).where(rollouts.c.trajectory_id == bindparam("which"))
_THIS_DRAFT = (drafts.c.reviewer == bindparam("who")) & (drafts.c.trajectory_id == bindparam("about"))
_DRAFT = select(drafts).where(_THIS_DRAFT)
_FORGET_DRAFT = delete(drafts).where(_THIS_DRAFT)


class UnknownClaim(DataError):
    """There is no such claim."""


class LostClaim(DataError):
    """The claim is over: somebody else holds the rollout, or it was given back, or submitted."""


def claim(db: Connection, reviewer: str, *, run_id: str | None, lease_s: float, now: float) -> Claim | None:
    """Lease the next rollout to `reviewer`; None if there is none.

    First what the reviewer has a draft of, then the queue in its order, last what the reviewer sent to its end.
    """
    wanted = {"reviewer": reviewer, "now": now} | ({"run": run_id} if run_id is not None else {})
    for query in _candidates(of_one_run=run_id is not None):
        trajectory_id = db.scalar(query, wanted)
        if trajectory_id is not None:
            return _hold(db, f"l-{uuid.uuid4().hex}", trajectory_id, reviewer, now + lease_s, now)
    return None


def heartbeat(db: Connection, claim_id: str, *, lease_s: float, now: float) -> Claim:
    """Renew a lease, also one that ended, if nobody took the rollout. Raises UnknownClaim, LostClaim."""
    return _hold_again(db, claim_id, "lapsed", "renewed", lease_s=lease_s, now=now)


def unskip(db: Connection, claim_id: str, *, lease_s: float, now: float) -> Claim:
    """Hold a rollout again that was skipped, if nobody took it. Raises UnknownClaim, LostClaim."""
    return _hold_again(db, claim_id, "skipped", "taken back", lease_s=lease_s, now=now)


def release(db: Connection, claim_id: str, state: Literal["skipped", "requeued"], *, now: float) -> None:
    """Give a rollout back: not to be offered to this reviewer again, or after everything else. Raises UnknownClaim,
    LostClaim."""
    current = _row(db, claim_id)["state"]
    if current not in ("held", "lapsed", state):
        raise LostClaim(f"The claim is {current}: it cannot be given back.")
    if current != state:
        _end(db, claim_id, state, now)


def submit(db: Connection, claim_id: str, critique: Critique, *, now: float) -> tuple[CritiqueState, bool]:
    """Store the reviewer's critique under the reviewer's name, and end the claim; True if it is new.

    Also of a claim that lapsed, and of a rollout that has enough critiques: nothing that was written is lost.
    Raises UnknownClaim.
    """
    row = _row(db, claim_id)
    reviewer, trajectory_id = row["reviewer"], row["trajectory_id"]
    signed = critique if critique.author is not None else critique.model_copy(update={"author": reviewer})
    _end(db, claim_id, "submitted", now)
    forget_draft(db, reviewer, trajectory_id)
    return critiques.put(db, trajectory_id, reviewer, signed, now=now, expected=Expected())


def task(db: Connection, claim_id: str, *, blind: bool) -> ReviewTask:
    """What the claim's holder sees. `blind` hides the outcome, and what machines said, until there is a draft or a
    critique. Raises UnknownClaim."""
    row = _row(db, claim_id)
    trajectory_id, reviewer = row["trajectory_id"], row["reviewer"]
    rollout = db.execute(_ROLLOUT, {"which": trajectory_id}).mappings().one()
    draft, written = get_draft(db, reviewer, trajectory_id), critiques.get(db, trajectory_id, reviewer)
    item = FeedbackItem.model_validate_json(rollout["item"])
    hidden = blind and draft is None and written is None
    return ReviewTask(
        claim=_claim(row),
        run_id=rollout["run_id"],
        asked_at=written_at(rollout["asked_at"]),
        item=_without_outcome(item) if hidden else item,
        blind=hidden,
        draft=draft,
        critique=written.critique if written is not None else None,
    )


def put_draft(db: Connection, reviewer: str, trajectory_id: str, draft: Critique, *, now: float) -> Draft:
    """Store a draft."""
    key = {"reviewer": reviewer, "trajectory_id": trajectory_id}
    upsert(db, drafts, {**key, "draft": draft.model_dump_json(), "updated_at": now})
    return Draft(**key, draft=draft, updated_at=written_at(now))


def get_draft(db: Connection, reviewer: str, trajectory_id: str) -> Draft | None:
    """One draft."""
    row = db.execute(_DRAFT, {"who": reviewer, "about": trajectory_id}).mappings().one_or_none()
    if row is None:
        return None
    parsed = {"draft": Critique.model_validate_json(row["draft"]), "updated_at": written_at(row["updated_at"])}
    return Draft.model_validate({**row, **parsed})


def forget_draft(db: Connection, reviewer: str, trajectory_id: str) -> None:
    """Delete a draft, if there is one."""
    db.execute(_FORGET_DRAFT, {"who": reviewer, "about": trajectory_id})


def progress(db: Connection, *, reviewer: str | None, run_id: str | None, now: float) -> Progress:
    """How far the queue is."""
    seen = select(rollouts.c.trajectory_id, rollouts.c.open).where(rollouts.c.rank.is_not(None), *_of_run(run_id))
    shown = seen.subquery()
    total, still_open = db.execute(
        select(func.count(), func.coalesce(func.sum(shown.c.open), 0)).select_from(shown)
    ).one()
    among = claims.join(shown, shown.c.trajectory_id == claims.c.trajectory_id)
    held = (claims.c.state == "held") & (claims.c.expires_at > now)
    mine = (claims.c.state == "submitted") & (claims.c.reviewer == reviewer)
    count = select(func.count(claims.c.trajectory_id.distinct())).select_from(among)
    return Progress(
        total=total,
        done=total - still_open,
        held=db.scalar(count.where(held)) or 0,
        mine=db.scalar(count.where(mine)) or 0,
    )


@cache
def _candidates(*, of_one_run: bool) -> list[Select[Any]]:
    """Queries for the rollout that `reviewer` gets at time `now`, of `run` or of all, the best first.

    The first and the last start from the reviewer's own rows and look each rollout up: to go through all rollouts for
    them takes as long as there are rollouts.
    """
    reviewer: ColumnElement[str] = bindparam("reviewer")
    of_run = [rollouts.c.run_id == bindparam("run")] if of_one_run else []
    mine = claims.alias()

    def claimed(trajectory_id: Any, *states: str) -> ColumnElement[bool]:
        own = (mine.c.trajectory_id == trajectory_id) & (mine.c.reviewer == reviewer)
        return exists().where(own, mine.c.state.in_(states))

    def free(trajectory_id: Any) -> ColumnElement[bool]:
        return ~_held(trajectory_id) & ~claimed(trajectory_id, "submitted", "skipped")

    def wanted(trajectory_id: Any) -> ColumnElement[bool]:
        return exists().where(rollouts.c.trajectory_id == trajectory_id, rollouts.c.open == 1, *of_run)

    drafted, queued, sent_back = drafts.c.trajectory_id, rollouts.c.trajectory_id, claims.c.trajectory_id
    return [
        select(drafted)
        .where(drafts.c.reviewer == reviewer, wanted(drafted), free(drafted), ~claimed(drafted, "requeued"))
        .order_by(drafts.c.updated_at)
        .limit(1),
        select(queued)
        .where(rollouts.c.open == 1, *of_run, free(queued), ~claimed(queued, "requeued"))
        .order_by(rollouts.c.rank.desc(), rollouts.c.number.desc())
        .limit(1),
        select(sent_back)
        .where(claims.c.reviewer == reviewer, claims.c.state == "requeued", wanted(sent_back), free(sent_back))
        .group_by(sent_back)
        .order_by(func.max(claims.c.changed_at))
        .limit(1),
    ]


def _held(trajectory_id: Any) -> ColumnElement[bool]:
    """Whether somebody's lease on the rollout runs at time `now`."""
    lease = claims.alias()
    running = (lease.c.state == "held") & (lease.c.expires_at > bindparam("now"))
    return exists().where(lease.c.trajectory_id == trajectory_id, running)


def _hold(db: Connection, claim_id: str, trajectory_id: str, reviewer: str, expires_at: float, now: float) -> Claim:
    db.execute(_LAPSE_OTHERS, {"about": trajectory_id, "but": claim_id, "state": "lapsed", "changed_at": now})
    values = {"trajectory_id": trajectory_id, "reviewer": reviewer, "state": "held", "expires_at": expires_at}
    upsert(db, claims, {"claim_id": claim_id, **values, "changed_at": now})
    return _claim({"claim_id": claim_id, **values})


def _hold_again(
    db: Connection, claim_id: str, over: Literal["lapsed", "skipped"], done: str, *, lease_s: float, now: float
) -> Claim:
    """Prolong a claim that is held, or `over` and on a rollout that nobody holds; else it cannot be `done`."""
    row = _row(db, claim_id)
    free = row["state"] == over and not db.scalar(select(_held(row["trajectory_id"])), {"now": now})
    if row["state"] != "held" and not free:
        raise LostClaim(f"The claim is {row['state']}: it cannot be {done}.")
    return _hold(db, claim_id, row["trajectory_id"], row["reviewer"], now + lease_s, now)


def _end(db: Connection, claim_id: str, state: str, now: float) -> None:
    db.execute(_CHANGE, {"which": claim_id, "state": state, "changed_at": now})


def _row(db: Connection, claim_id: str) -> Any:
    row = db.execute(_CLAIM, {"which": claim_id}).mappings().one_or_none()
    if row is None:
        raise UnknownClaim("There is no such claim.")
    return row


def _claim(row: Any) -> Claim:
    names = ("claim_id", "trajectory_id", "reviewer", "state")
    return Claim(**{name: row[name] for name in names}, expires_at=written_at(row["expires_at"]))


def _of_run(run_id: str | None) -> list[ColumnElement[bool]]:
    return [] if run_id is None else [rollouts.c.run_id == run_id]


def _without_outcome(item: FeedbackItem) -> FeedbackItem:
    unjudged = {"reward": None, "success": None}
    siblings = [sibling.model_copy(update=unjudged) for sibling in item.siblings]
    task = item.task.model_copy(update={"reference": {}})
    return item.model_copy(update={**unjudged, "siblings": siblings, "task": task, "said": []})
