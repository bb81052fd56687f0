"""Groups, queues and Redis servers for the tests of the trajectory queue."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.prompt_slots import Slot
from shared.protocol import Feedback, Message, Rollout, RolloutGroup, SourceInfo, Task, Trajectory, VersionSpan
from shared.redis_server import RedisServer
from shared.settings import QueueSettings
from shared.trajectory_queue import TrajectoryQueue


def make_group(
    run_id: str, slot: Slot | int = 0, *, logprobs: list[float] | None = None, text: str = "x"
) -> RolloutGroup:
    """A group of one short rollout, for a slot, or for prompt number `slot` of step 0."""
    slot = slot if isinstance(slot, Slot) else Slot(0, slot)
    values = logprobs if logprobs is not None else [-0.5, -1.25]
    group_id = slot.group_id(run_id)
    rollout = Rollout(
        text=text,
        token_ids=list(range(len(values))),
        logprobs=values,
        finish_reason="stop",
        versions=[VersionSpan(version=3, start=0, end=len(values))],
    )
    said = Feedback(
        trajectory_id=f"{group_id}-r00", feedback_id="f", status="ok", text=text, source=SourceInfo(name="code")
    )
    return RolloutGroup(
        run_id=run_id,
        group_id=group_id,
        step=slot.step,
        index=slot.index,
        attempt=slot.attempt,
        policy_version=3,
        task=Task(id="t", kind="math", messages=[Message(role="user", content=text)], reference={"answer": text}),
        prompt_token_ids=[1, 2, 3],
        trajectories=[Trajectory(trajectory_id=f"{group_id}-r00", rollout=rollout, feedback=[said], reward=0.5)],
        timings_s={"rollout": 0.25},
    )


def large_group(run_id: str, slot: Slot | int) -> RolloutGroup:
    """A group that takes about 100 kB in the queue."""
    values = random.Random(0)
    return make_group(run_id, slot, logprobs=[-values.random() for _ in range(10_000)])


def open_queue(url: str, run_id: str, *, dead_after_s: float = 3600.0, **settings: Any) -> TrajectoryQueue:
    """Somebody's own queue object; `consumer` beside the settings of the queue."""
    consumer = settings.pop("consumer", "learner-0")
    return TrajectoryQueue(QueueSettings(url=url, **settings), run_id, consumer=consumer, dead_after_s=dead_after_s)


@contextmanager
def own_redis(**options: Any) -> Iterator[RedisServer]:
    """A running server that a test may kill."""
    # A socket's path has at most 107 bytes: pytest's own temporary directories can be longer.
    with tempfile.TemporaryDirectory(prefix="vpd-redis-") as name:
        folder = Path(name)
        with RedisServer(folder, unix_socket=folder / "redis.sock", **options) as server:
            yield server
