"""Many clients at once and many runs, by the same code that measures them (`bench/`)."""

from __future__ import annotations

import pytest

from bench.sandbox_load import ENDLESS, RIGHT, WRONG, load
from bench.sandbox_service import Case
from bench.sandbox_soak import Held, soak
from sandbox.isolation import STRONGEST_FIRST, Isolation, Tier
from tests.sandbox.programs import tier_missing


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mix", [[RIGHT, WRONG], [RIGHT, ENDLESS, WRONG, ENDLESS]], ids=["no loops", "half loops"])
def test_a_thousand_clients_at_once_all_get_the_right_verdict(mix: list[Case]) -> None:
    outcome = load(1000, queue_limit=300, mix=mix)
    assert outcome.wrong == []
    assert outcome.answered == 1000
    assert outcome.refused > 0, "there was room for 300"


def test_clients_beyond_the_queue_come_back_and_get_the_right_verdict() -> None:
    outcome = load(60, queue_limit=20, mix=[RIGHT, WRONG])
    assert (outcome.wrong, outcome.answered) == ([], 60)
    assert outcome.refused > 0


def test_a_false_verdict_and_a_failure_are_noticed() -> None:
    outcome = load(2, queue_limit=20, mix=[Case("print(7)", 0.0, "Passed"), Case("print(7)", 1.0, "Failed")])
    assert len(outcome.wrong) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tier", STRONGEST_FIRST)
def test_what_is_held_stays_flat_over_many_runs(tier: Tier) -> None:
    if reason := tier_missing(tier):
        pytest.skip(reason)
    isolation = Isolation(tier)
    try:
        assert soak(isolation, 1000) == []
    finally:
        isolation.close()


def test_growth_is_noticed_field_by_field() -> None:
    before = Held(rss_kib=1000, descriptors=9, threads=4, processes=3, zombies=0, mounts=20, entries=14)
    after = Held(rss_kib=1000 + 17 * 1024, descriptors=10, threads=3, processes=3, zombies=1, mounts=20, entries=15)
    assert after.grown_from(before) == ["rss_kib", "descriptors", "zombies", "entries"]
    assert before.grown_from(before) == []
