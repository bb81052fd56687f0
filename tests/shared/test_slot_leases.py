"""Prompt slots shared by several collectors, on a real Redis."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from queue_builders import make_group, open_queue

from shared.prompt_slots import Slot
from shared.trajectory_queue import QueueDepth, TrajectoryQueue

PROMPTS = 4
Collector = Callable[[str], TrajectoryQueue]


@pytest.fixture
def collector(redis_url: str) -> Iterator[Collector]:
    """Makes the queue of a collector of one run, by the collector's name."""
    run_id, made = f"run-{uuid.uuid4().hex[:6]}", list[TrajectoryQueue]()

    def make(name: str) -> TrajectoryQueue:
        made.append(open_queue(redis_url, run_id, consumer=name, lease_s=1000))
        return made[-1]

    yield make
    make("last").drop()
    for queue in made:
        queue.close()


def reserve(queue: TrajectoryQueue, count: int, *, limit: int = 100) -> list[Slot]:
    found = queue.reserve(count, limit=limit, prompts_per_step=PROMPTS)
    assert found is not None
    return found


def expire(redis_url: str, queue: TrajectoryQueue, slot: Slot) -> None:
    """Let the lease of a slot have run out long ago."""
    name = slot.group_id(queue.run_id)
    assert redis.Redis.from_url(redis_url).zadd(f"vpd:{{{queue.run_id}}}:leases", {name: 1}, xx=True, ch=True)


def test_no_slot_can_be_reserved_before_a_learner_has_opened_them(collector: Collector) -> None:
    queue = collector("a")
    assert queue.reserve(2, limit=9, prompts_per_step=PROMPTS) is None
    queue.open_slots(6)
    assert reserve(queue, 3) == [Slot(1, 2), Slot(1, 3), Slot(2, 0)]


def test_opening_slots_again_changes_nothing(collector: Collector) -> None:
    queue = collector("a")
    queue.open_slots(0)
    reserve(queue, 3)
    queue.open_slots(0)
    assert reserve(queue, 1) == [Slot(0, 3)]


def test_new_slots_are_reserved_in_order_below_the_limit_each_once(collector: Collector) -> None:
    first, second = collector("a"), collector("b")
    first.open_slots(0)
    assert reserve(first, 3, limit=5) == [Slot(0, 0), Slot(0, 1), Slot(0, 2)]
    assert reserve(second, 3, limit=5) == [Slot(0, 3), Slot(1, 0)]
    assert reserve(first, 3, limit=5) == []
    assert reserve(first, 3, limit=6) == [Slot(1, 1)]


def test_of_collectors_that_reserve_at_once_no_two_get_the_same_slot(collector: Collector) -> None:
    queues = [collector(f"c{i}") for i in range(4)]
    queues[0].open_slots(0)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda queue: [slot for _ in range(10) for slot in reserve(queue, 2)], queues)
        slots = [slot.number(PROMPTS) for part in found for slot in part]
    assert sorted(slots) == list(range(80))


def test_a_slot_whose_lease_has_run_out_goes_to_the_next_and_only_one_group_of_it_counts(
    collector: Collector, redis_url: str
) -> None:
    slow, quick = collector("slow"), collector("quick")
    slow.open_slots(0)
    (slot,) = reserve(slow, 1)
    expire(redis_url, slow, slot)
    assert reserve(quick, 2) == [slot, Slot(0, 1)]
    group = make_group(slow.run_id, slot)
    assert quick.publish(group)
    assert not slow.publish(group)
    assert slow.depth() == QueueDepth(waiting=1, pending=0, dead=0)


def test_renewing_keeps_a_lease_and_tells_which_were_lost(collector: Collector, redis_url: str) -> None:
    slow, quick = collector("slow"), collector("quick")
    slow.open_slots(0)
    kept, lost, published = reserve(slow, 3)
    for slot in (kept, lost):
        expire(redis_url, slow, slot)
    assert slow.renew([kept]) == [kept]
    assert reserve(quick, 1) == [lost]
    slow.publish(make_group(slow.run_id, published))
    assert slow.renew([kept, lost, published]) == [kept]
    assert reserve(quick, 1) == [Slot(0, 3)]


def test_a_restarted_collector_gives_back_what_it_held_and_nothing_of_another(collector: Collector) -> None:
    died, other = collector("a"), collector("b")
    died.open_slots(0)
    held = reserve(died, 2)
    reserve(other, 1)
    collector("a").release()
    assert died.renew(held) == []
    assert reserve(other, 3) == [*held, Slot(0, 3)]


def test_a_published_slot_is_not_reserved_again(collector: Collector, redis_url: str) -> None:
    queue = collector("a")
    queue.open_slots(0)
    (slot,) = reserve(queue, 1)
    queue.publish(make_group(queue.run_id, slot))
    queue.release()
    assert reserve(queue, 1) == [Slot(0, 1)]
    assert redis.Redis.from_url(redis_url).zcard(f"vpd:{{{queue.run_id}}}:leases") == 1


def test_a_slot_that_was_published_before_redis_forgot_its_counter_is_left_out(collector: Collector) -> None:
    queue = collector("a")
    queue.publish(make_group(queue.run_id, Slot(0, 1)))
    queue.open_slots(0)
    assert reserve(queue, 2) == [Slot(0, 0), Slot(0, 2)]


@pytest.mark.parametrize("state", ["waiting", "pending", "dead"])
def test_a_dropped_group_gives_its_slot_back_as_the_next_attempt_once(
    collector: Collector, redis_url: str, state: str
) -> None:
    queue = collector("learner-0")
    queue.open_slots(0)
    (slot,) = reserve(queue, 1)
    group = make_group(queue.run_id, slot)
    queue.publish(group)
    if state != "waiting":
        queue.take(1, timeout_s=0)
    if state == "dead":
        queue.dead_letter(group.group_id, "poison")
    for _ in range(2):
        queue.give_back(group.group_id, slot)
    assert queue.depth() == QueueDepth(waiting=0, pending=0, dead=0)
    assert redis.Redis.from_url(redis_url).exists(f"vpd:{{{queue.run_id}}}:body:{group.group_id}") == 0
    again = Slot(0, 0, attempt=1)
    assert reserve(queue, 2) == [again, Slot(0, 1)]
    assert not queue.publish(group)
    assert queue.publish(make_group(queue.run_id, again))
    assert [Slot.of(taken) for taken in queue.take(5, timeout_s=0)] == [again]


def test_a_group_that_was_acknowledged_is_not_given_back(collector: Collector) -> None:
    queue = collector("learner-0")
    queue.open_slots(0)
    (slot,) = reserve(queue, 1)
    group = make_group(queue.run_id, slot)
    queue.publish(group)
    queue.ack([group.group_id])
    queue.give_back(group.group_id, slot)
    queue.give_back("never-seen", slot)
    assert reserve(queue, 1) == [Slot(0, 1)]


def test_an_attempt_already_published_or_leased_is_not_made_again(collector: Collector) -> None:
    queue = collector("learner-0")
    queue.open_slots(0)
    slots = reserve(queue, 2)
    groups = [make_group(queue.run_id, slot) for slot in slots]
    for group, slot in zip(groups, slots, strict=True):
        queue.publish(group)
        queue.give_back(group.group_id, slot)
    leased, published = reserve(queue, 2)
    queue.publish(make_group(queue.run_id, published))
    # What a Redis that was killed does when it lost the last second: the dropped groups are there again.
    queue.reopen([group.group_id for group in groups])
    for group, slot in zip(groups, slots, strict=True):
        queue.publish(group)
        queue.give_back(group.group_id, slot)
    assert reserve(queue, 1) == [Slot(0, 2)]
    assert queue.renew([leased]) == [leased]
