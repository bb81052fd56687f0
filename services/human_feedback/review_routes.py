"""Routes of review work: claims with their leases, drafts, progress."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response

from services.human_feedback import reviews
from services.human_feedback.desk import Desk, problems, worded
from services.human_feedback.keys import needs
from shared.problems import Problem
from shared.protocol import Critique, CritiqueState, Identifier
from shared.review_protocol import Claim, ClaimRequest, Draft, Progress, ReviewSettings, ReviewTask

CLAIM = "/claims/{claim_id}"
DRAFT = "/drafts/{reviewer}/{trajectory_id}"
UNKNOWN = problems(s404="There is no such claim.")
LOST = problems(s409="The claim is over.")
NOTHING: dict[int | str, dict[str, Any]] = {204: {"description": "There is nothing to review."}}
CREATED: dict[int | str, dict[str, Any]] = {201: {"model": CritiqueState, "description": "It is new."}}


def router(desk: Desk, guidelines: str) -> APIRouter:
    """Everything about review work."""
    found = APIRouter(prefix="/review", tags=["review"], dependencies=[needs("review")])
    _add_claims(found, desk)
    _add_drafts(found, desk)

    @found.get("/progress")
    async def progress(reviewer: Identifier | None = None, run_id: Identifier | None = None) -> Progress:
        """How far the queue is, of one run or of all."""
        now = desk.clock()
        return await desk.run(lambda db: reviews.progress(db, reviewer=reviewer, run_id=run_id, now=now))

    @found.get("/settings")
    async def review_settings() -> ReviewSettings:
        """What a reviewer's client needs to know."""
        return ReviewSettings(guidelines=guidelines, lease_s=desk.settings.lease_s, blind=desk.settings.blind)

    return found


def _add_claims(router: APIRouter, desk: Desk) -> None:
    blind = desk.settings.blind

    @router.post("/claims", status_code=201, response_model=ReviewTask, responses=NOTHING)
    async def claim(request: ClaimRequest) -> ReviewTask | Response:
        """Lease the next rollout (201); 204 where there is none. Nobody else gets it while the lease runs."""
        now, lease_s = desk.clock(), request.lease_s or desk.settings.lease_s

        def take(db: Any) -> ReviewTask | None:
            held = reviews.claim(db, request.reviewer, run_id=request.run_id, lease_s=lease_s, now=now)
            return None if held is None else reviews.task(db, held.claim_id, blind=blind)

        return await desk.run(take) or Response(status_code=204)

    @router.get(CLAIM, responses=UNKNOWN)
    async def get_claim(claim_id: Identifier) -> ReviewTask:
        """A claimed rollout as its reviewer sees it, whatever became of the claim."""
        return await desk.run(lambda db: reviews.task(db, claim_id, blind=blind))

    @router.post(CLAIM + "/heartbeat", responses=UNKNOWN | LOST)
    async def heartbeat(claim_id: Identifier) -> Claim:
        """Renew the lease; also one that ended, if nobody took the rollout."""
        now = desk.clock()
        return await desk.run(lambda db: reviews.heartbeat(db, claim_id, lease_s=desk.settings.lease_s, now=now))

    @router.delete(CLAIM, status_code=204, responses=UNKNOWN | LOST)
    async def release(claim_id: Identifier, reason: Literal["skip", "requeue"] = "requeue") -> None:
        """Give the rollout back: `skip` it, so that it is not offered again, or `requeue` it behind everything else."""
        now = desk.clock()
        state: Literal["skipped", "requeued"] = "skipped" if reason == "skip" else "requeued"
        await desk.run(lambda db: reviews.release(db, claim_id, state, now=now))

    @router.post(CLAIM + "/unskip", responses=UNKNOWN | LOST)
    async def unskip(claim_id: Identifier) -> Claim:
        """Hold a rollout again that was skipped, if nobody took it."""
        now = desk.clock()
        return await desk.run(lambda db: reviews.unskip(db, claim_id, lease_s=desk.settings.lease_s, now=now))

    @router.post(CLAIM + "/submit", responses=CREATED | UNKNOWN)
    async def submit(claim_id: Identifier, critique: Critique, response: Response) -> CritiqueState:
        """Store the critique under the reviewer's name (201; 200 where it changes or repeats one), and end the claim.
        Also where the lease ended, or others have filled the quota: nothing that was written is lost."""
        words, now = worded(critique), desk.clock()
        state, new = await desk.run(lambda db: reviews.submit(db, claim_id, words, now=now))
        response.status_code = 201 if new else 200
        return state


def _add_drafts(router: APIRouter, desk: Desk) -> None:
    @router.put(DRAFT)
    async def put_draft(reviewer: Identifier, trajectory_id: Identifier, draft: Critique) -> Draft:
        """Save a draft; it need not have words."""
        now = desk.clock()
        return await desk.run(lambda db: reviews.put_draft(db, reviewer, trajectory_id, draft, now=now))

    @router.get(DRAFT, responses=problems(s404="There is no such draft."))
    async def get_draft(reviewer: Identifier, trajectory_id: Identifier) -> Draft:
        """A saved draft."""
        draft = await desk.run(lambda db: reviews.get_draft(db, reviewer, trajectory_id))
        if draft is None:
            raise Problem(404, "Not Found", "There is no such draft.")
        return draft

    @router.delete(DRAFT, status_code=204)
    async def delete_draft(reviewer: Identifier, trajectory_id: Identifier) -> None:
        """Forget a draft."""
        await desk.run(lambda db: reviews.forget_draft(db, reviewer, trajectory_id))
