"""A Redis that has reached its maxmemory: it refuses what adds, and can be emptied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from queue_builders import large_group, open_queue, own_redis

from shared.errors import QueueUnavailable
from shared.prompt_slots import Slot
from shared.trajectory_queue import TrajectoryQueue


@pytest.fixture
def full(redis_binary: Path) -> Iterator[tuple[TrajectoryQueue, list[Slot]]]:
    """A queue that has refused a group, and the slots of those it took, of which no consumer has heard yet."""
    with own_redis(binary=redis_binary, max_memory_mb=4) as server:
        queue = open_queue(server.url, "run")
        queue.open_slots(0)
        slots = queue.reserve(100, limit=100, prompts_per_step=100)
        assert slots is not None
        taken = list[Slot]()
        with pytest.raises(QueueUnavailable, match=r"is full .* raise its maxmemory"):
            for slot in slots:
                queue.publish(large_group("run", slot))
                taken.append(slot)
        # The refused group left room: less than its body needs, more than what is small.
        redis.Redis.from_url(server.url).config_set("maxmemory", "1mb")
        assert len(taken) > 5
        yield queue, taken
        queue.close()


def ids_of(slots: list[Slot]) -> list[str]:
    return [slot.group_id("run") for slot in slots]


def test_a_full_queue_is_taken_and_acknowledged_and_then_has_room_again(
    full: tuple[TrajectoryQueue, list[Slot]],
) -> None:
    queue, slots = full
    with pytest.raises(QueueUnavailable, match="is full"):
        queue.publish(large_group("run", Slot(9, 0)))
    assert [Slot.of(group) for group in queue.take(len(slots), timeout_s=1)] == slots
    assert queue.depth().pending == len(slots)
    queue.ack(ids_of(slots))
    assert queue.depth().pending == 0
    assert queue._client.config_set("maxmemory", "4mb")
    assert queue.publish(large_group("run", Slot(9, 0)))


def test_a_group_that_a_full_redis_refused_was_not_half_published(full: tuple[TrajectoryQueue, list[Slot]]) -> None:
    queue, slots = full
    refused = Slot(0, len(slots))
    assert queue.known([refused.group_id("run")]) == [False]
    assert not queue._client.exists("vpd:{run}:body:" + refused.group_id("run"))
    assert queue.depth().waiting == len(slots)
    assert queue.renew([refused]) == [refused]


def test_a_known_group_is_refused_as_known_by_a_full_redis(full: tuple[TrajectoryQueue, list[Slot]]) -> None:
    queue, slots = full
    assert not queue.publish(large_group("run", slots[0]))


def test_a_full_queue_can_give_groups_up_and_back_settle_reopen_and_renew(
    full: tuple[TrajectoryQueue, list[Slot]],
) -> None:
    queue, slots = full
    dead, dropped, acknowledged, *_ = ids_of(slots)
    queue.take(2, timeout_s=1)
    queue.dead_letter(dead, "poison")
    assert [letter.group_id for letter in queue.dead_letters()] == [dead]
    queue.give_back(dropped, slots[1])
    queue.give_back(dead, slots[0])
    queue.ack([acknowledged])
    queue.reopen([acknowledged])
    still_held = Slot(0, 99)
    assert queue.renew([still_held]) == [still_held]
    queue.open_slots(0)
    queue.settle_below(1)
    assert queue.depth().waiting == 0
    assert queue.known(ids_of(slots)) == [True] * len(slots)


def test_a_full_redis_lets_nobody_reserve_what_it_could_not_store(full: tuple[TrajectoryQueue, list[Slot]]) -> None:
    queue, _ = full
    with pytest.raises(QueueUnavailable, match="is full"):
        queue.reserve(1, limit=200, prompts_per_step=100)
