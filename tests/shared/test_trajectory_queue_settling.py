"""What the queue forgets of settled steps, and how a learner that went back gets its groups again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis
from queue_builders import large_group, make_group, open_queue

from shared.prompt_slots import Slot
from shared.trajectory_queue import QueueDepth, TrajectoryQueue

PROMPTS = 2


@pytest.fixture
def queue(redis_url: str) -> Iterator[TrajectoryQueue]:
    made = open_queue(redis_url, f"run-{uuid.uuid4().hex[:6]}")
    yield made
    made.drop()
    made.close()


def published(queue: TrajectoryQueue, *slots: Slot) -> list[str]:
    for slot in slots:
        assert queue.publish(make_group(queue.run_id, slot))
    return [slot.group_id(queue.run_id) for slot in slots]


def test_groups_of_settled_steps_are_refused_and_those_of_later_steps_are_not(queue: TrajectoryQueue) -> None:
    queue.settle_below(3)
    queue.settle_below(2)
    assert [queue.publish(make_group(queue.run_id, Slot(step, 0))) for step in range(5)] == [False] * 3 + [True] * 2


def test_what_is_known_is_what_was_published_or_is_settled(queue: TrajectoryQueue) -> None:
    acknowledged, waiting, settled = published(queue, Slot(7, 0), Slot(8, 0), Slot(1, 0))
    queue.ack([acknowledged])
    never, below = Slot(8, 1).group_id(queue.run_id), Slot(1, 1).group_id(queue.run_id)
    assert queue.known([acknowledged, waiting, settled, never, below]) == [True, True, True, False, False]
    queue.settle_below(2)
    assert queue.known([acknowledged, waiting, settled, never, below]) == [True, True, True, False, True]
    assert queue.known([]) == []


def test_a_settled_group_that_is_still_in_the_stream_goes_with_its_step(queue: TrajectoryQueue, redis_url: str) -> None:
    published(queue, Slot(0, 0), Slot(0, 1), Slot(1, 0))
    queue.take(1, timeout_s=0)
    queue.settle_below(1)
    assert queue.depth() == QueueDepth(waiting=1, pending=0, dead=0)
    assert [group.step for group in queue.take(9, timeout_s=0)] == [1]
    assert len(list(redis.Redis.from_url(redis_url).scan_iter(f"vpd:{{{queue.run_id}}}:body:*"))) == 1


def test_a_dead_letter_outlives_the_settling_of_its_step(queue: TrajectoryQueue, redis_url: str) -> None:
    (dead,) = published(queue, Slot(0, 0))
    queue.dead_letter(dead, "poison")
    queue.settle_below(1)
    assert [letter.group_id for letter in queue.dead_letters()] == [dead]
    assert redis.Redis.from_url(redis_url).exists(f"vpd:{{{queue.run_id}}}:body:{dead}")


def test_redis_does_not_grow_with_the_steps_of_a_run(queue: TrajectoryQueue, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url, decode_responses=True)

    def run(steps: range) -> int:
        for step in steps:
            ids = published(queue, *(Slot(step, index) for index in range(PROMPTS)))
            assert len(queue.take(PROMPTS, timeout_s=0)) == PROMPTS
            queue.ack(ids)
            queue.settle_below(step + 1)
        keys = list(client.scan_iter(f"vpd:{{{queue.run_id}}}:*"))
        return sum(client.memory_usage(key) or 0 for key in keys)

    early = run(range(100))
    assert run(range(100, 400)) <= early + 200


def test_a_reopened_group_is_published_and_taken_again(queue: TrajectoryQueue, redis_url: str) -> None:
    acknowledged, dead, waiting = published(queue, Slot(3, 0), Slot(3, 1), Slot(4, 0))
    queue.take(2, timeout_s=0)
    queue.ack([acknowledged])
    queue.dead_letter(dead, "poison")
    queue.settle_below(4)
    queue.reopen([acknowledged, dead, waiting])
    assert queue.known([acknowledged, dead, waiting]) == [False, False, True]
    assert queue.dead_letters() == []
    assert not redis.Redis.from_url(redis_url).exists(f"vpd:{{{queue.run_id}}}:body:{dead}")
    published(queue, Slot(3, 0), Slot(3, 1))
    assert [group.group_id for group in queue.take(9, timeout_s=0)] == [waiting, acknowledged, dead]
    assert not queue.publish(make_group(queue.run_id, Slot(2, 0)))


def test_reopening_a_group_that_is_pending_leaves_it_with_its_consumer(queue: TrajectoryQueue) -> None:
    (pending,) = published(queue, Slot(3, 0))
    assert len(queue.take(1, timeout_s=0)) == 1
    queue.reopen([pending])
    assert queue.take(1, timeout_s=0) == []
    assert not queue.publish(make_group(queue.run_id, Slot(3, 0)))


def test_a_reopened_group_that_was_acknowledged_by_another_is_handed_out_again(
    queue: TrajectoryQueue, redis_url: str
) -> None:
    (taken,) = published(queue, Slot(3, 0))
    assert len(queue.take(1, timeout_s=0)) == 1
    open_queue(redis_url, queue.run_id).ack([taken])
    queue.reopen([taken])
    published(queue, Slot(3, 0))
    assert [group.group_id for group in queue.take(1, timeout_s=0)] == [taken]


def test_the_slots_of_reopened_groups_are_reserved_again_where_slots_are_open(queue: TrajectoryQueue) -> None:
    queue.open_slots(0)
    slots = queue.reserve(3, limit=3, prompts_per_step=PROMPTS)
    assert slots is not None
    ids = published(queue, *slots)
    queue.ack(ids[:2])
    queue.settle_below(1)
    for _ in range(2):
        queue.reopen(ids)
    assert queue.reserve(9, limit=3, prompts_per_step=PROMPTS) == slots[:2]


def test_reopening_where_no_slots_are_open_reserves_none(queue: TrajectoryQueue) -> None:
    (done,) = published(queue, Slot(0, 0))
    queue.ack([done])
    queue.reopen([done])
    queue.open_slots(2)
    assert queue.reserve(1, limit=3, prompts_per_step=PROMPTS) == [Slot(1, 0)]


def test_a_body_is_deleted_with_its_acknowledgement(queue: TrajectoryQueue, redis_url: str) -> None:
    group = large_group(queue.run_id, 0)
    queue.publish(group)
    name = f"vpd:{{{queue.run_id}}}:body:{group.group_id}"
    assert redis.Redis.from_url(redis_url).strlen(name) > 50_000
    queue.ack([group.group_id])
    assert redis.Redis.from_url(redis_url).exists(name) == 0
