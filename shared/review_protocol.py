"""What a reviewer's client and human-feedback say to each other about review work; critiques are in `protocol.py`.

A *claim* is one reviewer's lease on one rollout: nobody else gets the rollout while it is held.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.protocol import Critique, FeedbackItem, Identifier, Number, Truth, Wire

MAX_LEASE_S = 86_400


class ClaimRequest(Wire):
    """`POST /v1/review/claims`: the next rollout for `reviewer`, of one run or of all. `lease_s` is the service's own
    setting unless given, in seconds."""

    reviewer: Identifier
    run_id: Identifier | None = None
    lease_s: Number | None = Field(default=None, gt=0, le=MAX_LEASE_S)


class Claim(Wire):
    """A lease. `held` until `expires_at` or longer: as long as nobody else took the rollout. `lapsed`: somebody did.
    Its holder may still submit."""

    claim_id: Identifier
    trajectory_id: Identifier
    reviewer: Identifier
    state: Literal["held", "submitted", "skipped", "requeued", "lapsed"]
    expires_at: str


class Draft(Wire):
    """A critique in the making; it need not have words."""

    reviewer: Identifier
    trajectory_id: Identifier
    draft: Critique
    updated_at: str


class ReviewTask(Wire):
    """A claimed rollout as its reviewer sees it, with the reviewer's own draft or critique.

    `item.said` is what other sources said of the rollout. While `blind`, it is empty; `item` has no outcome, its
    siblings neither, and its task no reference.
    """

    claim: Claim
    run_id: Identifier
    asked_at: str
    item: FeedbackItem
    blind: Truth
    draft: Draft | None = None
    critique: Critique | None = None


class Progress(Wire):
    """`GET /v1/review/progress`: `done` of `total` rollouts have as many critiques as are asked for; `held` are leased
    now; `mine` is how many of them the reviewer has submitted a critique of."""

    total: int
    done: int
    held: int
    mine: int


class ReviewSettings(Wire):
    """`GET /v1/review/settings`: what a reviewer's client needs to know."""

    guidelines: str
    lease_s: Number
    blind: Truth
