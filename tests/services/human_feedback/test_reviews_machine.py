"""Any order of claims, beats, ends of leases and submissions, against a plain account of who holds what."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.human_feedback import critiques, reviews
from services.human_feedback.reviews import LostClaim
from shared.protocol import Critique
from shared.review_protocol import Claim
from tests.services.human_feedback.support import a_store, failed, remember

LEASE_S, QUOTA = 10.0, 2
REVIEWERS = st.sampled_from(["ann", "bob", "cid"])


class Desk(RuleBasedStateMachine):
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.exit = ExitStack()
        self.db = self.exit.enter_context(a_store(reviews_per_rollout=QUOTA))
        self.now = 0.0
        self.rollouts: list[str] = []
        self.leases: dict[str, tuple[str, str, float]] = {}  # rollout -> claim, reviewer, end
        self.written: set[tuple[str, str]] = set()
        self.skipped: set[tuple[str, str]] = set()

    def teardown(self) -> None:
        self.exit.close()

    def free(self, reviewer: str) -> set[str]:
        """The rollouts that `reviewer` may get now."""
        full = {r for r in self.rollouts if sum(of == r for of, _ in self.written) >= QUOTA}
        held = {r for r, (_, _, end) in self.leases.items() if end > self.now}
        seen = {r for r, by in self.written | self.skipped if by == reviewer}
        return set(self.rollouts) - full - held - seen

    def ended(self, claim_id: str) -> None:
        self.leases = {r: lease for r, lease in self.leases.items() if lease[0] != claim_id}

    @initialize(count=st.integers(1, 2))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.ask()

    @precondition(lambda self: len(self.rollouts) < 3)
    @rule()
    def ask(self) -> None:
        self.rollouts.append(f"r{len(self.rollouts)}")
        remember(self.db, failed(self.rollouts[-1]))

    @rule(seconds=st.sampled_from([1.0, 4.0, 8.0, 9.9, 10.0, 10.1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=claims, reviewer=REVIEWERS)
    def claim(self, reviewer: str) -> tuple[str, str, str] | None:
        free = self.free(reviewer)
        held = reviews.claim(self.db, reviewer, run_id=None, lease_s=LEASE_S, now=self.now)
        assert (held is None) == (not free)
        if held is None:
            return None
        assert held.trajectory_id in free
        self.leases[held.trajectory_id] = (held.claim_id, reviewer, self.now + LEASE_S)
        return held.claim_id, held.trajectory_id, reviewer

    @rule(claim=claims, again=st.sampled_from([(reviews.heartbeat, "lapsed"), (reviews.unskip, "skipped")]))
    def hold_again(self, claim: tuple[str, str, str] | None, again: tuple[Callable[..., Claim], str]) -> None:
        if claim is None:
            return
        claim_id, rollout, reviewer = claim
        call, over = again
        holder, _, end = self.leases.get(rollout, ("", "", 0.0))
        state = reviews.task(self.db, claim_id, blind=False).claim.state
        try:
            call(self.db, claim_id, lease_s=LEASE_S, now=self.now)
        except LostClaim:
            assert holder != claim_id and (state not in ("held", over) or end > self.now)
        else:
            assert holder == claim_id or (state == over and end <= self.now)
            self.skipped -= {(rollout, reviewer)} if state == "skipped" else set()
            self.leases[rollout] = (claim_id, reviewer, self.now + LEASE_S)

    @rule(claim=claims, draft=st.booleans())
    def submit(self, claim: tuple[str, str, str] | None, draft: bool) -> None:
        if claim is None:
            return
        claim_id, rollout, reviewer = claim
        if draft:
            reviews.put_draft(self.db, reviewer, rollout, Critique(text="x"), now=self.now)
        reviews.submit(self.db, claim_id, Critique(text=claim_id), now=self.now)
        self.written.add((rollout, reviewer))
        self.ended(claim_id)

    @rule(claim=claims, skip=st.booleans())
    def give_back(self, claim: tuple[str, str, str] | None, skip: bool) -> None:
        if claim is None:
            return
        claim_id, rollout, reviewer = claim
        wanted: Literal["skipped", "requeued"] = "skipped" if skip else "requeued"
        state = reviews.task(self.db, claim_id, blind=False).claim.state
        try:
            reviews.release(self.db, claim_id, wanted, now=self.now)
        except LostClaim:
            assert state not in ("held", "lapsed", wanted)
            return
        assert state in ("held", "lapsed", wanted)
        self.skipped |= {(rollout, reviewer)} if skip else set()
        self.ended(claim_id)

    @precondition(lambda self: self.rollouts)
    @invariant()
    def every_critique_is_there_and_the_counts_are_right(self) -> None:
        stored = critiques.of_rollouts(self.db, self.rollouts)
        assert {(r, s.identifier) for r, states in stored.items() for s in states} == self.written
        progress = reviews.progress(self.db, reviewer="ann", run_id=None, now=self.now)
        full = sum(len(states) >= QUOTA for states in stored.values())
        held = sum(end > self.now for _, _, end in self.leases.values())
        mine = sum(by == "ann" for _, by in self.written)
        assert (progress.total, progress.done, progress.held, progress.mine) == (len(self.rollouts), full, held, mine)


TestDesk = Desk.TestCase
TestDesk.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
