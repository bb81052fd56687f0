"""The trajectory queue on a real Redis."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from queue_builders import make_group, open_queue, own_redis

from shared.errors import DataError, QueueUnavailable
from shared.group_codec import decode_group, digest, encode_group
from shared.settings import QueueSettings
from shared.trajectory_queue import DeadLetter, QueueDepth, TrajectoryQueue


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def queue(redis_url: str, run_id: str) -> Iterator[TrajectoryQueue]:
    made = TrajectoryQueue(QueueSettings(url=redis_url), run_id)
    yield made
    made.drop()
    made.close()


def again(redis_url: str, run_id: str, **options: Any) -> TrajectoryQueue:
    """The same consumer after a restart, or another."""
    return open_queue(redis_url, run_id, max_deliveries=3, **options)


def keys_of(redis_url: str, run_id: str) -> set[str]:
    return {key.decode().split(":", 2)[2] for key in redis.Redis.from_url(redis_url).keys(f"vpd:{{{run_id}}}:*")}


def test_what_is_taken_is_what_was_published_in_order(queue: TrajectoryQueue, run_id: str) -> None:
    groups = [make_group(run_id, index) for index in range(5)]
    for group in groups:
        queue.publish(group)
    assert queue.take(3, timeout_s=0) == groups[:3]
    assert queue.take(9, timeout_s=0) == groups[3:]


def test_a_group_is_published_once_even_after_it_was_acknowledged(queue: TrajectoryQueue, run_id: str) -> None:
    group = make_group(run_id)
    assert queue.publish(group)
    assert not queue.publish(group)
    assert len(queue.take(9, timeout_s=0)) == 1
    queue.ack([group.group_id])
    assert not queue.publish(group)
    assert queue.take(9, timeout_s=0) == []


def test_a_group_of_another_run_is_refused(queue: TrajectoryQueue) -> None:
    with pytest.raises(DataError, match="is of run other"):
        queue.publish(make_group("other"))


def test_nothing_is_handed_out_twice_in_one_lifetime(queue: TrajectoryQueue, run_id: str) -> None:
    queue.publish(make_group(run_id))
    assert len(queue.take(1, timeout_s=0)) == 1
    assert queue.take(1, timeout_s=0) == []


def test_a_delivery_whose_answer_was_lost_is_taken_again_though_others_are_held(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    groups = [make_group(run_id, index) for index in range(4)]
    for group in groups:
        queue.publish(group)
    assert queue.take(3, timeout_s=0) == groups[:3]
    lost = redis.Redis.from_url(redis_url, protocol=2)
    assert lost.xreadgroup("learner", "learner-0", {f"vpd:{{{run_id}}}:groups": ">"})
    assert queue.take(1, timeout_s=0) == groups[3:]


def test_a_restarted_consumer_gets_its_unacknowledged_groups_before_new_ones(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    groups = [make_group(run_id, index) for index in range(4)]
    for group in groups[:3]:
        queue.publish(group)
    queue.take(3, timeout_s=0)
    queue.ack([groups[1].group_id])
    queue.publish(groups[3])
    restarted = again(redis_url, run_id)
    assert restarted.take(2, timeout_s=0) == [groups[0], groups[2]]
    assert restarted.take(2, timeout_s=0) == [groups[3]]


def test_the_groups_of_a_dead_consumer_go_to_a_living_one_but_not_those_of_a_living(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    group = make_group(run_id)
    queue.publish(group)
    queue.take(1, timeout_s=0)
    patient = again(redis_url, run_id, consumer="learner-1", dead_after_s=1000)
    assert patient.take(1, timeout_s=0) == []
    hasty = again(redis_url, run_id, consumer="learner-2", dead_after_s=0)
    assert hasty.take(1, timeout_s=0) == [group]


def test_a_group_delivered_too_often_becomes_a_dead_letter_with_a_reason(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    poison, good = make_group(run_id, 0), make_group(run_id, 1)
    queue.publish(poison)
    for _ in range(3):
        assert again(redis_url, run_id).take(1, timeout_s=0) == [poison]
    queue.publish(good)
    survivor = again(redis_url, run_id)
    assert survivor.take(1, timeout_s=0) == [good]
    assert survivor.dead_letters() == [
        DeadLetter(poison.group_id, 0, "delivered 3 times and never acknowledged"),
    ]
    assert survivor.depth() == QueueDepth(waiting=0, pending=1, dead=1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (None, "its body is missing"),
        (b"", "do not have the checksum"),
        (b"\x00" * 64, "do not have the checksum"),
    ],
)
def test_a_damaged_body_becomes_a_dead_letter_and_the_next_group_is_served(
    queue: TrajectoryQueue, redis_url: str, run_id: str, damage: bytes | None, reason: str
) -> None:
    bad, good = make_group(run_id, 0), make_group(run_id, 1)
    queue.publish(bad)
    queue.publish(good)
    body, client = f"vpd:{{{run_id}}}:body:{bad.group_id}", redis.Redis.from_url(redis_url)
    client.delete(body) if damage is None else client.set(body, damage)
    assert queue.take(2, timeout_s=0.05) == [good]
    assert [letter.group_id for letter in queue.dead_letters()] == [bad.group_id]
    assert reason in queue.dead_letters()[0].reason


def test_a_body_with_a_right_checksum_that_is_no_group_is_refused_with_a_reason() -> None:
    with pytest.raises(DataError, match="no rollout group"):
        decode_group(b"abc", {b"sha256": b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"})


def test_acknowledging_leaves_only_the_stream_and_the_dedupe_key(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    group = make_group(run_id)
    queue.publish(group)
    queue.take(1, timeout_s=0)
    queue.ack([group.group_id, group.group_id])
    queue.ack([group.group_id, "never-seen"])
    assert keys_of(redis_url, run_id) == {"groups", "known"}
    assert queue.depth() == QueueDepth(waiting=0, pending=0, dead=0)
    queue.drop()
    assert keys_of(redis_url, run_id) == set()


def test_a_consumer_that_did_not_take_a_group_can_acknowledge_it(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    group = make_group(run_id)
    queue.publish(group)
    queue.take(1, timeout_s=0)
    again(redis_url, run_id).ack([group.group_id])
    assert again(redis_url, run_id).take(1, timeout_s=0) == []


def test_a_dead_letter_is_not_delivered_again_and_keeps_its_body(
    queue: TrajectoryQueue, redis_url: str, run_id: str
) -> None:
    group = make_group(run_id)
    queue.publish(group)
    queue.take(1, timeout_s=0)
    queue.dead_letter(group.group_id, "prompt longer than the context")
    queue.dead_letter(group.group_id, "again")
    assert again(redis_url, run_id).take(1, timeout_s=0) == []
    assert [letter.reason for letter in queue.dead_letters()] == ["prompt longer than the context"]
    assert f"body:{group.group_id}" in keys_of(redis_url, run_id)


def test_a_waiting_consumer_is_woken_by_a_publication(queue: TrajectoryQueue, redis_url: str, run_id: str) -> None:
    first, second = make_group(run_id, 0), make_group(run_id, 1)
    queue.publish(first)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(queue.take, 2, timeout_s=60)
        # The first is pending: the consumer has come for it and now waits for the second.
        producer = again(redis_url, run_id)
        deadline = time.monotonic() + 20
        while producer.depth().pending == 0:
            assert time.monotonic() < deadline
        producer.publish(second)
        assert taken.result(20) == [first, second]


def test_of_producers_that_publish_one_group_at_once_only_one_is_told_it_was_new(redis_url: str, run_id: str) -> None:
    producers = [again(redis_url, run_id) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for index in range(10):
            group = make_group(run_id, index)
            assert sum(pool.map(lambda producer, one=group: producer.publish(one), producers)) == 1
    assert producers[0].depth().waiting == 10
    producers[0].drop()


def test_the_depth_counts_what_waits_and_what_is_pending(queue: TrajectoryQueue, run_id: str) -> None:
    for index in range(3):
        queue.publish(make_group(run_id, index))
    queue.take(1, timeout_s=0)
    assert queue.depth() == QueueDepth(waiting=2, pending=1, dead=0)
    queue.ack([make_group(run_id, 0).group_id])
    assert queue.depth() == QueueDepth(waiting=2, pending=0, dead=0)


def test_runs_do_not_see_each_other(queue: TrajectoryQueue, redis_url: str, run_id: str) -> None:
    queue.publish(make_group(run_id))
    other = again(redis_url, run_id + "-b")
    assert other.take(1, timeout_s=0) == []
    other.drop()
    assert queue.depth().waiting == 1


finite = st.floats(max_value=0, allow_nan=False, allow_infinity=False)


@given(logprobs=st.lists(finite, max_size=30), text=st.text(), index=st.integers(0, 999))
def test_a_group_round_trips_exactly(logprobs: list[float], text: str, index: int) -> None:
    group = make_group("run", index, logprobs=logprobs, text=text)
    body = encode_group(group)
    fields = {b"sha256": digest(body).encode(), b"group_id": group.group_id.encode()}
    back = decode_group(body, fields)
    assert back == group
    signs = [math.copysign(1, value) for value in back.trajectories[0].rollout.logprobs]
    assert signs == [math.copysign(1, value) for value in logprobs]


def test_groups_survive_redis_killed_and_restarted(redis_binary: Path) -> None:
    with own_redis(binary=redis_binary) as server:
        queue = TrajectoryQueue(QueueSettings(url=server.url), "run")
        groups = [make_group("run", index) for index in range(3)]
        for group in groups:
            queue.publish(group)
        assert queue.take(2, timeout_s=0) == groups[:2]
        queue.ack([groups[0].group_id])
        # What is not in its file yet is lost with it: a second or two, where the disk is busy.
        while int(redis.Redis.from_url(server.url).info("persistence")["aof_buffer_length"]):
            pass
        server.kill()
        with pytest.raises(QueueUnavailable, match="cannot be reached"):
            queue.take(1, timeout_s=0)
        server.start()
        assert queue.take(1, timeout_s=0) == [groups[2]]
        assert again(server.url, "run").take(5, timeout_s=0) == groups[1:]
        assert not queue.publish(groups[0])


def test_no_redis_at_all_is_one_sentence_without_the_password() -> None:
    queue = TrajectoryQueue(QueueSettings(url="redis://:secret@127.0.0.1:1/0"), "run")
    with pytest.raises(QueueUnavailable, match="cannot be reached") as caught:
        queue.depth()
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)
