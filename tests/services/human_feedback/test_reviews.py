"""Review work: leases, quota, order, drafts, and what a reviewer sees."""

from __future__ import annotations

import pytest
from feedback_builders import an_item
from sqlalchemy import Connection, insert
from sqlalchemy.exc import IntegrityError

from services.human_feedback import critiques, reviews
from services.human_feedback.critiques import Expected
from services.human_feedback.reviews import LostClaim, UnknownClaim
from services.human_feedback.tables import claims
from shared.protocol import Critique, Said
from shared.review_protocol import Claim
from tests.services.human_feedback.support import a_store, failed, remember

LEASE_S = 10.0
WORDS = Critique(text="Mind the sign.")


def _claim(db: Connection, reviewer: str, now: float = 0.0, run_id: str | None = None) -> Claim | None:
    return reviews.claim(db, reviewer, run_id=run_id, lease_s=LEASE_S, now=now)


def _names(db: Connection, reviewer: str) -> list[str]:
    """Everything that the reviewer can claim, in order."""
    found = []
    while (held := _claim(db, reviewer)) is not None:
        found.append(held.trajectory_id)
    return found


def test_rollouts_come_newest_first_and_each_to_one_reviewer() -> None:
    with a_store() as db:
        remember(db, *(failed(f"r{i}") for i in range(4)))
        first, second = _claim(db, "ann"), _claim(db, "bob")
        assert first is not None and second is not None
        assert [first.trajectory_id, second.trajectory_id, *_names(db, "ann")] == ["r3", "r2", "r1", "r0"]
        assert _claim(db, "bob") is None


def test_a_lease_that_ended_gives_the_rollout_to_the_next_and_a_beat_renews_it_before() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        held = _claim(db, "ann")
        assert held is not None
        reviews.heartbeat(db, held.claim_id, lease_s=LEASE_S, now=9.0)
        assert _claim(db, "bob", now=18.9) is None
        reviews.heartbeat(db, held.claim_id, lease_s=LEASE_S, now=25.0)  # it had ended, and nobody was there
        assert _claim(db, "bob", now=34.9) is None
        taken = _claim(db, "bob", now=35.0)
        assert taken is not None and taken.trajectory_id == "r0"
        with pytest.raises(LostClaim, match="lapsed"):
            reviews.heartbeat(db, held.claim_id, lease_s=LEASE_S, now=36.0)


def test_who_lost_the_lease_may_still_submit_even_when_the_quota_is_filled() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        lost = _claim(db, "ann")
        taken = _claim(db, "bob", now=20.0)
        assert lost is not None and taken is not None
        reviews.submit(db, taken.claim_id, WORDS, now=21.0)
        state, new = reviews.submit(db, lost.claim_id, WORDS, now=22.0)
        assert new and (state.identifier, state.critique.author) == ("ann", "ann")
        assert [s.identifier for s in critiques.of_rollouts(db, ["r0"])["r0"]] == ["ann", "bob"]
        assert _claim(db, "cid", now=100.0) is None


def test_a_submission_that_is_repeated_is_one_critique() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        held = _claim(db, "ann")
        assert held is not None
        first, new = reviews.submit(db, held.claim_id, WORDS, now=1.0)
        again, still_new = reviews.submit(db, held.claim_id, WORDS, now=2.0)
        assert (new, still_new, again) == (True, False, first)


@pytest.mark.parametrize("quota", [1, 3])
def test_a_rollout_wants_as_many_critiques_as_the_quota_whoever_writes_them(quota: int) -> None:
    with a_store(reviews_per_rollout=quota) as db:
        remember(db, failed("r0"))
        critiques.put(db, "r0", "by-rest", WORDS, now=0.0, expected=Expected())
        for number in range(quota - 1):
            held = _claim(db, f"w{number}")
            assert held is not None
            reviews.submit(db, held.claim_id, WORDS, now=0.0)
            assert _claim(db, f"w{number}") is None, "nobody reviews a rollout twice"
        assert _claim(db, "late") is None
        critiques.forget(db, "r0", "by-rest", expected=Expected())
        assert _claim(db, "late") is not None


def test_a_critique_that_was_there_before_its_rollout_counts() -> None:
    with a_store() as db:
        critiques.put(db, "r0", "early", WORDS, now=0.0, expected=Expected())
        remember(db, failed("r0"), failed("r1"))
        assert _names(db, "ann") == ["r1"]


def test_what_was_skipped_is_for_others_and_what_was_requeued_comes_last() -> None:
    with a_store() as db:
        remember(db, *(failed(f"r{i}") for i in range(4)))
        for state, now in (("skipped", 1.0), ("requeued", 2.0), ("requeued", 3.0)):
            held = _claim(db, "ann")
            assert held is not None
            reviews.release(db, held.claim_id, state, now=now)  # type: ignore[arg-type]
        assert _names(db, "ann") == ["r0", "r2", "r1"]
        assert _names(db, "bob") == ["r3"]


def test_a_skip_that_is_taken_back_holds_the_rollout_again_and_a_heartbeat_on_its_way_takes_none_back() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        held = _claim(db, "ann")
        assert held is not None
        reviews.release(db, held.claim_id, "skipped", now=1.0)
        with pytest.raises(LostClaim, match="skipped"):
            reviews.heartbeat(db, held.claim_id, lease_s=LEASE_S, now=2.0)
        assert reviews.unskip(db, held.claim_id, lease_s=LEASE_S, now=3.0).state == "held"
        assert _names(db, "bob") == []


def test_a_rollout_with_the_reviewers_draft_comes_first() -> None:
    with a_store() as db:
        remember(db, *(failed(f"r{i}") for i in range(4)))
        reviews.put_draft(db, "ann", "r1", Critique(text="It"), now=1.0)
        assert _names(db, "ann") == ["r1", "r3", "r2", "r0"]


def test_a_run_can_be_reviewed_alone() -> None:
    with a_store() as db:
        remember(db, failed("a0"), run_id="a")
        remember(db, failed("b0"), run_id="b")
        held = _claim(db, "ann", run_id="a")
        assert held is not None and held.trajectory_id == "a0" and _claim(db, "ann", run_id="a") is None


def _steps_of_a_claim(rollouts: int, run_id: str | None) -> int:
    """Instructions of SQLite's machine until ann has a rollout, with one of the run "run" among many of another; she
    has a draft of one that was critiqued since, and sent another back."""
    with a_store() as db:
        remember(db, failed("mine"), failed("done"))
        remember(db, *(failed(f"r{i}") for i in range(rollouts)), run_id="other")
        reviews.put_draft(db, "ann", "done", WORDS, now=1.0)
        critiques.put(db, "done", "bob", WORDS, now=1.0, expected=Expected())
        held = _claim(db, "ann", run_id=run_id)
        assert held is not None
        reviews.release(db, held.claim_id, "requeued", now=2.0)
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        driver = db.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(count, 1)
        assert _claim(db, "ann", run_id=run_id) is not None
        driver.set_progress_handler(None, 1)
        return steps


@pytest.mark.parametrize("run_id", [None, "run"])
def test_a_claim_is_no_more_work_where_there_are_more_rollouts(run_id: str | None) -> None:
    assert _steps_of_a_claim(1_000, run_id) < 1.2 * _steps_of_a_claim(10, run_id)


@pytest.mark.parametrize(
    ("review", "seen"),
    [("all", ["r3", "r2", "r1", "r0"]), ("failed", ["r3", "r2", "r1"]), ("uncertain", ["r1", "r3", "r0"])],
)
def test_settings_choose_which_rollouts_people_see(review: str, seen: list[str]) -> None:
    with a_store() as db:
        passed = an_item(trajectory_id="r0", reward=1.0, siblings=failed("r0", 1.0, 1.0, 0.9).siblings)
        others = failed("r1", 0.0, 1.0, 1.0), failed("r2", 0.0, 0.0), failed("r3", 0, 0, 0, 1)
        remember(db, passed, *others, review=review)
        assert _names(db, "ann") == seen


def test_a_sample_is_the_same_whenever_it_is_drawn_and_has_about_its_share() -> None:
    drawn = []
    for _ in range(2):
        with a_store() as db:
            remember(db, *(failed(f"r{i}") for i in range(400)), review="sample", review_share=0.25)
            drawn.append(_names(db, "ann"))
    assert drawn[0] == drawn[1] and 70 < len(drawn[0]) < 130


def test_an_outcome_that_comes_later_puts_the_rollout_into_the_queue() -> None:
    with a_store() as db:
        remember(db, an_item(trajectory_id="r0"), review="failed")
        assert _claim(db, "ann") is None
        remember(db, failed("r0"), review="failed")
        assert _claim(db, "ann") is not None


def test_the_outcome_and_what_machines_said_are_hidden_until_a_draft_is_saved() -> None:
    said = [Said(source="code", status="ok", text="Expected: B", reward=0.0, success=False)]
    with a_store() as db:
        remember(db, failed("r0", 1.0, answer="B", said=said))
        held = _claim(db, "ann")
        assert held is not None
        task = reviews.task(db, held.claim_id, blind=True)
        assert task.blind and (task.item.reward, task.item.success, task.item.task.reference) == (None, None, {})
        assert [sibling.reward for sibling in task.item.siblings] == [None] and task.item.said == []
        reviews.put_draft(db, "ann", "r0", Critique(text="It"), now=1.0)
        seen = reviews.task(db, held.claim_id, blind=True)
        assert not seen.blind and (seen.item.success, seen.item.siblings[0].reward) == (False, 1.0)
        assert seen.item.task.reference == {"answer": "B"} and seen.item.said == said
        assert seen.draft is not None and seen.draft.draft.text == "It"


def test_submitting_ends_the_draft_and_shows_the_reviewers_own_critique() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        held = _claim(db, "ann")
        assert held is not None
        reviews.put_draft(db, "ann", "r0", Critique(text="It"), now=1.0)
        reviews.submit(db, held.claim_id, WORDS, now=2.0)
        task = reviews.task(db, held.claim_id, blind=True)
        assert task.draft is None and task.critique is not None and task.critique.text == WORDS.text


def test_progress_counts_what_is_done_held_and_mine() -> None:
    with a_store() as db:
        remember(db, *(failed(f"r{i}") for i in range(4)))
        for reviewer in ("ann", "ann", "bob"):
            held = _claim(db, reviewer)
            assert held is not None
            reviews.submit(db, held.claim_id, WORDS, now=1.0)
        _claim(db, "cid", now=1.0)
        now = reviews.progress(db, reviewer="ann", run_id=None, now=2.0)
        assert (now.total, now.done, now.held, now.mine) == (4, 3, 1, 2)
        assert reviews.progress(db, reviewer=None, run_id="run", now=20.0).held == 0
        assert reviews.progress(db, reviewer="ann", run_id="other", now=2.0).total == 0


def test_a_claim_that_nobody_made_is_unknown_and_a_submitted_one_cannot_be_given_back() -> None:
    with a_store() as db:
        remember(db, failed("r0"))
        with pytest.raises(UnknownClaim):
            reviews.heartbeat(db, "l-0", lease_s=LEASE_S, now=0.0)
        held = _claim(db, "ann")
        assert held is not None
        reviews.submit(db, held.claim_id, WORDS, now=1.0)
        for call in (
            lambda: reviews.release(db, held.claim_id, "skipped", now=1.0),
            lambda: reviews.heartbeat(db, held.claim_id, lease_s=LEASE_S, now=1.0),
        ):
            with pytest.raises(LostClaim, match="submitted"):
                call()


def test_the_database_itself_refuses_that_two_people_hold_one_rollout() -> None:
    with a_store() as db:
        one = {"trajectory_id": "r0", "reviewer": "ann", "state": "held", "expires_at": 1.0, "changed_at": 0.0}
        db.execute(insert(claims).values(claim_id="l-1", **one))
        with pytest.raises(IntegrityError):
            db.execute(insert(claims).values(claim_id="l-2", **one))
