"""Redis killed under load, with and without its files: producers and learner repeat themselves until all is done."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from queue_builders import make_group, open_queue, own_redis

from shared.errors import QueueUnavailable
from shared.prompt_slots import Slot
from shared.trajectory_queue import QueueDepth, TrajectoryQueue

PRODUCERS, EACH, KILLS = 2, 150, 5
T = TypeVar("T")


class Learner:
    """Takes groups and counts their effects in a set that outlives it; another consumer after every outage."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.counted = set[str]()
        self.progress = threading.Condition()

    def run(self, wanted: int) -> None:
        while len(self.counted) < wanted:
            queue = open_queue(self.url, "run", max_deliveries=1000)
            try:
                while len(self.counted) < wanted:
                    self._learn(queue)
            except QueueUnavailable:
                pass
            finally:
                queue.close()

    def _learn(self, queue: TrajectoryQueue) -> None:
        taken = [group.group_id for group in queue.take(4, timeout_s=0.1)]
        with self.progress:
            self.counted |= set(taken)
            self.progress.notify_all()
        queue.ack(taken)

    def wait_for(self, count: int) -> None:
        with self.progress:
            assert self.progress.wait_for(lambda: len(self.counted) >= count, timeout=60)


def patiently(call: Callable[[], T]) -> T:
    """Until Redis answers; each try waits for a connection, with a pause of its own."""
    while True:
        try:
            return call()
        except QueueUnavailable:
            continue


def produce(url: str, producer: int, learner: Learner, wanted: int) -> None:
    """Publish all groups, and again those that Redis lost, until the learner has them all."""
    groups = [make_group("run", Slot(step, producer)) for step in range(EACH)]
    ids = [group.group_id for group in groups]
    queue = open_queue(url, "run", consumer=f"collector-{producer}")
    for group in groups:
        patiently(lambda one=group: queue.publish(one))  # type: ignore[misc]
    while len(learner.counted) < wanted:
        known = patiently(lambda: queue.known(ids))
        for group, is_known in zip(groups, known, strict=True):
            if not is_known:
                patiently(lambda one=group: queue.publish(one))  # type: ignore[misc]
    queue.close()


@pytest.mark.parametrize("loses_its_files", [False, True], ids=["keeps its files", "loses its files"])
def test_redis_killed_again_and_again_under_load_loses_no_group_and_doubles_none(
    redis_binary: Path, loses_its_files: bool
) -> None:
    wanted = PRODUCERS * EACH
    with own_redis(binary=redis_binary) as server, ThreadPoolExecutor(PRODUCERS + 1) as pool:
        learner = Learner(server.url)
        work = [pool.submit(learner.run, wanted)]
        work += [pool.submit(produce, server.url, producer, learner, wanted) for producer in range(PRODUCERS)]
        for kill in range(1, KILLS + 1):
            learner.wait_for(kill * wanted // (KILLS + 2))
            server.kill()
            if loses_its_files:
                lose_files(server.directory)
            server.start()
        for job in work:
            job.result(60)
        assert len(learner.counted) == wanted
        rest = open_queue(server.url, "run", max_deliveries=1000)
        while left := rest.take(100, timeout_s=0):
            assert {group.group_id for group in left} <= learner.counted
            rest.ack([group.group_id for group in left])
        assert rest.depth() == QueueDepth(waiting=0, pending=0, dead=0)


def test_a_learner_that_lives_through_the_loss_of_redis_is_not_handed_what_it_holds_again(redis_binary: Path) -> None:
    groups = [make_group("run", index) for index in range(3)]
    with own_redis(binary=redis_binary) as server:
        queue = open_queue(server.url, "run")
        for group in groups:
            queue.publish(group)
        assert queue.take(2, timeout_s=0) == groups[:2]
        server.kill()
        lose_files(server.directory)
        server.start()
        assert queue.known([group.group_id for group in groups]) == [False] * 3
        for group in groups:
            assert queue.publish(group)
        assert queue.take(9, timeout_s=0) == [groups[2]]
        queue.ack([group.group_id for group in groups])
        assert queue.depth() == QueueDepth(waiting=0, pending=0, dead=0)


def test_slots_are_opened_again_where_the_learner_is_after_the_loss_of_redis(redis_binary: Path) -> None:
    with own_redis(binary=redis_binary) as server:
        queue = open_queue(server.url, "run")
        queue.open_slots(0)
        assert queue.reserve(5, limit=9, prompts_per_step=4)
        server.kill()
        lose_files(server.directory)
        server.start()
        assert queue.reserve(5, limit=9, prompts_per_step=4) is None
        queue.publish(make_group("run", Slot(0, 3)))
        queue.open_slots(2)
        assert queue.reserve(2, limit=9, prompts_per_step=4) == [Slot(0, 2), Slot(1, 0)]


def lose_files(directory: Path) -> None:
    for item in directory.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()
