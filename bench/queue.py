"""How fast the trajectory queue is: publish -> take -> acknowledge, and where the time goes.

    .venv/bin/python -m bench.queue

A server of its own, on a unix socket, with the append-only file of a real stack. Groups are as a run makes them: eight
rollouts, token ids drawn from a vocabulary of 150,000, a log-prob for each. Beside it, in turns, as many bytes go to
the same server by XADD alone, one connection and one at a time as the queue's own calls: from redis-py, and from
`redis-benchmark` where it is on the PATH. Each figure is of the fastest of some rounds: other processes only add.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import redis

from shared import trajectory_queue
from shared.group_codec import decode_group, encode_group
from shared.prompt_slots import Slot
from shared.protocol import Feedback, Message, Rollout, RolloutGroup, SourceInfo, Task, Trajectory, VersionSpan
from shared.redis_server import RedisServer
from shared.settings import QueueSettings
from shared.trajectory_queue import TrajectoryQueue

ROUNDS = 9
SIBLINGS = 8
SIZES = {512: 64, 8192: 8}
"""Tokens of a rollout, and groups in a round."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vpd-bench-") as name:
        folder = Path(name)
        with RedisServer(folder, unix_socket=folder / "redis.sock") as server:
            for tokens, count in SIZES.items():
                measure(server, tokens, count)


def measure(server: RedisServer, tokens: int, count: int) -> None:
    """Print what `count` groups with rollouts of `tokens` tokens take."""
    source = np.random.default_rng(tokens)
    groups = [make_group(source, Slot(step, 0), tokens) for step in range(count)]
    body = encode_group(groups[0])
    queue = TrajectoryQueue(QueueSettings(url=server.url), "bench")
    client = redis.Redis.from_url(server.url)
    rounds, bare, benchmark = list[dict[str, float]](), list[float](), list[float]()
    for _ in range(ROUNDS):
        rounds.append(through(queue, groups))
        queue.drop()
        with timed({}, "bare") as spent:
            for _ in range(count):
                client.xadd("bare", {"body": body}, maxlen=100)
        bare.append(count / spent["bare"])
        if shutil.which("redis-benchmark"):
            benchmark.append(redis_benchmark(server, body, 10 * count))
        client.delete("bare")
    report(tokens, len(body), {part: 1e3 * s / count for part, s in min(rounds, key=whole).items()}, bare, benchmark)
    client.close()
    queue.close()


def through(queue: TrajectoryQueue, groups: list[RolloutGroup]) -> dict[str, float]:
    """Seconds of each part; those of the codec are measured where the queue calls it."""
    spent: dict[str, float] = {}
    with coded_in(spent):
        with timed(spent, "publish"):
            for group in groups:
                queue.publish(group)
        with timed(spent, "take"):
            taken = queue.take(len(groups), timeout_s=60)
        with timed(spent, "acknowledge"):
            queue.ack([group.group_id for group in taken])
    assert taken == groups
    return spent


def whole(spent: dict[str, float]) -> float:
    return spent["publish"] + spent["take"] + spent["acknowledge"]


def report(tokens: int, size: int, ms: dict[str, float], bare: list[float], benchmark: list[float]) -> None:
    """Print rates and shares from the milliseconds of each part for one group, and the rates of XADD."""
    rate, redis_ms = 1e3 / whole(ms), whole(ms) - ms["encode"] - ms["decode"]
    print(f"{SIBLINGS} rollouts of {tokens} tokens, {size:,} bytes a group")
    print(f"  publish -> take -> acknowledge: {rate:.1f} groups/s, {rate * size / 1e6:.1f} MB/s")
    print("  ms a group: " + ", ".join(f"{part} {spent:.2f}" for part, spent in ms.items()))
    print(f"  encoding and decoding: {100 * (1 - redis_ms / whole(ms)):.0f} %; the rest is {redis_ms:.2f} ms")
    for client, rates in (("redis-py", bare), ("redis-benchmark", benchmark)):
        if rates:
            best = max(rates)
            print(
                f"  XADD from {client}: {best:.0f}/s, {best * size / 1e6:.0f} MB/s; the queue's ratio "
                f"{rate / best:.3f}, without encoding and decoding {1e3 / redis_ms / best:.2f}"
            )


@contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[dict[str, float]]:
    """Add the seconds of a block to those of `part`."""
    began = time.perf_counter()
    yield spent
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - began


@contextmanager
def coded_in(spent: dict[str, float]) -> Iterator[None]:
    """Time the queue's codec."""

    def encode(group: RolloutGroup) -> bytes:
        with timed(spent, "encode"):
            return encode_group(group)

    def decode(body: bytes | None, fields: Mapping[bytes, bytes]) -> RolloutGroup:
        with timed(spent, "decode"):
            return decode_group(body, fields)

    with (
        patch.object(trajectory_queue, "encode_group", encode),
        patch.object(trajectory_queue, "decode_group", decode),
    ):
        yield


def redis_benchmark(server: RedisServer, body: bytes, count: int) -> float:
    """Entries of `body` that it adds in a second, in `count`."""
    command = ["redis-benchmark", "-s", str(server.unix_socket), "-c", "1", "-n", str(count), "--csv", "-x"]
    add = ["XADD", "bare", "MAXLEN", "~", "100", "*", "body"]
    # It reads no further than to the first zero byte.
    payload = body.replace(b"\0", b"\1")
    table = subprocess.run([*command, *add], input=payload, capture_output=True, check=True).stdout.decode()
    return float(table.splitlines()[-1].split(",")[1].strip('"'))


def make_group(source: np.random.Generator, slot: Slot, tokens: int) -> RolloutGroup:
    """A group whose numbers are as random as a model's: they do not compress better than real ones."""
    group_id = slot.group_id("bench")
    words = ["def", "solve(values):", "return", "sorted(set(values))", "if", "values", "else", "[]", "#"]
    trajectories = []
    for index in range(SIBLINGS):
        name = f"{group_id}-r{index:02d}"
        text = " ".join(source.choice(words, size=tokens))
        said = Feedback(
            trajectory_id=name, feedback_id="f", status="ok", text=text[:500], source=SourceInfo(name="code")
        )
        rollout = Rollout(
            text=text,
            token_ids=source.integers(0, 150_000, tokens).tolist(),
            logprobs=(-source.exponential(0.5, tokens)).astype(np.float32).astype(float).tolist(),
            finish_reason="stop",
            versions=[VersionSpan(version=0, start=0, end=tokens)],
        )
        trajectories.append(Trajectory(trajectory_id=name, rollout=rollout, feedback=[said], reward=0.5))
    return RolloutGroup(
        run_id="bench",
        group_id=group_id,
        step=slot.step,
        index=slot.index,
        policy_version=slot.step,
        task=Task(id="t", kind="math", messages=[Message(role="user", content="Sort the values." * 20)]),
        prompt_token_ids=source.integers(0, 150_000, 128).tolist(),
        trajectories=trajectories,
    )


if __name__ == "__main__":
    main()
