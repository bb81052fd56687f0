"""What human-feedback answers as a feedback source: what people have written, at once or when they have written it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert, select

from services.human_feedback import critiques, rollouts
from services.human_feedback.tables import jobs
from services.human_feedback.tables import rollouts as rollout_table
from shared.critique_text import critique_text
from shared.feedback_results import abstention, feedback_id
from shared.protocol import CritiqueState, Feedback, FeedbackItem, FeedbackRequest, Job, SourceInfo, Span
from shared.settings import HumanFeedbackSettings

SOURCE = SourceInfo(name="human", kind="human", version="1")
POLL_S = 2.5
"""A caller looks for its job about as often: it must find the answer before its own deadline."""
FORGOTTEN_AFTER_S = 3600.0

_ITEMS = TypeAdapter(list[FeedbackItem])


def ask(
    db: Connection, request: FeedbackRequest, settings: HumanFeedbackSettings, *, now: float
) -> list[Feedback] | Job:
    """Remember the rollouts; what people have written about them, or a job where it is worth waiting for more."""
    rollouts.remember(db, request.run_id, request.items, settings, now=now)
    wait_s = min(settings.wait_s, request.deadline_s - min(POLL_S, request.deadline_s / 2))
    if settings.wait_s == 0 or not _awaited(db, request.items):
        return _said(db, request.items)
    job_id = f"j-{uuid.uuid4().hex}"
    items = _ITEMS.dump_json(request.items).decode()
    db.execute(delete(jobs).where(jobs.c.deadline < now - FORGOTTEN_AFTER_S))
    db.execute(insert(jobs).values(job_id=job_id, items=items, deadline=now + wait_s))
    return Job(job_id=job_id)


def look(db: Connection, job_id: str, *, now: float) -> Job | None:
    """A job: done when every awaited rollout has a critique, or its deadline is over; None if there is no such job."""
    row = db.execute(select(jobs).where(jobs.c.job_id == job_id)).mappings().one_or_none()
    if row is None:
        return None
    items = _ITEMS.validate_json(row["items"])
    if now < row["deadline"] and _awaited(db, items):
        return Job(job_id=job_id)
    return Job(job_id=job_id, status="done", results=_said(db, items))


def give_up(db: Connection, job_id: str) -> bool:
    """Forget a job; False if there was none."""
    return db.execute(delete(jobs).where(jobs.c.job_id == job_id)).rowcount > 0


def _awaited(db: Connection, items: Sequence[FeedbackItem]) -> bool:
    """Whether a rollout is in the review queue that nobody has written about."""
    ids = [item.trajectory_id for item in items]
    queued = select(rollout_table.c.trajectory_id).where(
        rollout_table.c.trajectory_id.in_(ids), rollout_table.c.rank.is_not(None)
    )
    written = critiques.of_rollouts(db, ids)
    return any(not written[trajectory_id] for trajectory_id in db.scalars(queued))


def _said(db: Connection, items: Sequence[FeedbackItem]) -> list[Feedback]:
    written = critiques.of_rollouts(db, [item.trajectory_id for item in items])
    return [_join(item, written[item.trajectory_id]) for item in items]


def _join(item: FeedbackItem, written: Sequence[CritiqueState]) -> Feedback:
    if not written:
        return abstention(item, SOURCE)
    return Feedback(
        trajectory_id=item.trajectory_id,
        feedback_id=feedback_id(item, SOURCE),
        status="ok",
        text="\n\n".join(critique_text(state.critique, item.response.text) for state in written),
        spans=[span for state in written for span in state.critique.spans if _inside(span, item)],
        source=SOURCE,
    )


def _inside(span: Span, item: FeedbackItem) -> bool:
    # A critique may be older than its rollout, and a client refuses spans beyond the response.
    return span.start <= span.end <= len(item.response.text)
