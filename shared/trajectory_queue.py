"""The trajectory queue: prompt groups from collectors to the learner, through Redis Streams.

Delivery is at least once, effect is exactly once: a group is published under its id (a repeat is refused), handed
out to one consumer, and acknowledged when the checkpoint that contains its effect is durable. Until then it is
pending, and comes back to whoever takes next under the same consumer name after a crash.

Keys of a run, all in one hash slot (`P` is `vpd:{RUN_ID}:`):
    P groups     stream of small entries: group id, step, version, bytes and sha256 of the body
    P body:ID    the body of a group; the stream entry is its claim check
    P known      hash of every group id ever published to its entry id; outlives the acknowledgement
    P dead       stream of groups given up, each with a reason; their bodies stay for inspection

How a body is written is in `shared/group_codec.py`. Stored sizes are bounded by admission (`credits`), never by
trimming the stream.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import EqualJitterBackoff
from redis.retry import Retry

from shared.errors import DataError, QueueUnavailable
from shared.group_codec import decode_group, digest, encode_group
from shared.protocol import RolloutGroup
from shared.settings import QueueSettings

CONSUMER_GROUP = "learner"
_ANSWER_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 3.0
# Shorter than the answer timeout, or every idle wait would look like a lost connection.
_BLOCK_S = 2.0

# KEYS known, groups, body; ARGV group id, body, step, version, bytes, sha256
_PUBLISH = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('SET', KEYS[3], ARGV[2])
local entry = redis.call('XADD', KEYS[2], '*', 'group_id', ARGV[1], 'step', ARGV[3], 'version', ARGV[4],
                         'bytes', ARGV[5], 'sha256', ARGV[6])
redis.call('HSET', KEYS[1], ARGV[1], entry)
return 1
"""

# KEYS known, groups, then bodies; ARGV consumer group, then group ids
_ACK = """
for i = 2, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry then
    redis.call('XACK', KEYS[2], ARGV[1], entry)
    redis.call('XDEL', KEYS[2], entry)
    redis.call('DEL', KEYS[i + 1])
  end
end
"""

# KEYS known, groups, dead; ARGV consumer group, group id, reason
_DEAD_LETTER = """
local entry = redis.call('HGET', KEYS[1], ARGV[2])
if not entry then return 0 end
local found = redis.call('XRANGE', KEYS[2], entry, entry)
if #found == 0 then return 0 end
local fields = found[1][2]
table.insert(fields, 'reason')
table.insert(fields, ARGV[3])
redis.call('XADD', KEYS[3], '*', unpack(fields))
redis.call('XACK', KEYS[2], ARGV[1], entry)
redis.call('XDEL', KEYS[2], entry)
return 1
"""


@dataclass(frozen=True)
class QueueDepth:
    """Groups `waiting` for a first delivery, `pending` (delivered, not acknowledged) and `dead` (given up)."""

    waiting: int
    pending: int
    dead: int


@dataclass(frozen=True)
class DeadLetter:
    """A group that was given up, and why."""

    group_id: str
    step: int
    reason: str


class TrajectoryQueue:
    """One run's queue, as a collector or the consumer named `consumer` sees it. Not for use by several threads.

    A consumer name is stable across restarts: two live processes must not share one. Entries that a consumer of
    another name has held for `dead_after_s` seconds are taken over. Every method raises QueueUnavailable when Redis
    does not answer or refuses to store; calling again later is safe, and nothing taken is lost in between.
    """

    def __init__(
        self, settings: QueueSettings, run_id: str, *, consumer: str = "learner-0", dead_after_s: float = 3600.0
    ) -> None:
        self.run_id = run_id
        self.consumer = consumer
        self._max_deliveries = settings.max_deliveries
        self._dead_after_ms = int(dead_after_s * 1000)
        self._where = _without_password(settings.url)
        self._prefix = f"vpd:{{{run_id}}}:"
        self._groups, self._known, self._dead = (self._prefix + name for name in ("groups", "known", "dead"))
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": _ANSWER_TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "retry": Retry(EqualJitterBackoff(cap=0.5, base=0.05), 3),
        }
        # Any: the shape of a reply depends on the command, and the type stubs of redis disagree about them.
        self._client: Any = redis.Redis.from_url(settings.url, **options)
        self._ready: deque[RolloutGroup] = deque()
        self._held: dict[bytes, str] = {}

    # ------------------------------------------------------------------------------------------------- producers

    def publish(self, group: RolloutGroup) -> bool:
        """Add a group. False when a group of this id was published before, whatever became of it."""
        if group.run_id != self.run_id:
            raise DataError(
                f"Group {group.group_id} is of run {group.run_id}, the queue of {self.run_id}.", field="run_id"
            )
        body = encode_group(group)
        keys = [self._known, self._groups, self._body(group.group_id)]
        values = [group.group_id, body, group.step, group.policy_version, len(body), digest(body)]
        with self._errors():
            return bool(self._client.eval(_PUBLISH, len(keys), *keys, *values))

    def credits(self, limit: int) -> int:
        """How many groups may be published before `limit` are in flight (waiting or pending); never negative."""
        depth = self.depth()
        return max(0, limit - depth.waiting - depth.pending)

    # ------------------------------------------------------------------------------------------------- consumers

    def take(self, count: int, *, timeout_s: float) -> list[RolloutGroup]:
        """Up to `count` groups: as soon as there are so many, else those that came within `timeout_s` seconds.

        First this consumer's own pending ones that this object has not handed out, then those of dead consumers,
        then new ones. A group delivered too often, or whose body is missing or damaged, becomes a dead letter.
        """
        deadline = time.monotonic() + timeout_s
        with self._errors():
            self._ensure_group()
            while (missing := count - len(self._ready)) > 0:
                left_s = max(0.0, deadline - time.monotonic())
                self._recover(missing)
                if (missing := count - len(self._ready)) > 0:
                    self._receive(missing, block_s=min(_BLOCK_S, left_s))
                if not left_s:
                    break
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    def ack(self, group_ids: Iterable[str]) -> None:
        """Forget these groups for good: their effect is durable. Acknowledging twice does nothing."""
        done = list(dict.fromkeys(group_ids))
        if not done:
            return
        keys = [self._known, self._groups, *map(self._body, done)]
        with self._errors():
            self._client.eval(_ACK, len(keys), *keys, CONSUMER_GROUP, *done)
        self._release(done)

    def dead_letter(self, group_id: str, reason: str) -> None:
        """Give a group up for `reason`. Its body stays for inspection; a group already settled stays as it is."""
        keys = [self._known, self._groups, self._dead]
        with self._errors():
            self._client.eval(_DEAD_LETTER, len(keys), *keys, CONSUMER_GROUP, group_id, reason)
        self._release([group_id])

    # --------------------------------------------------------------------------------------------------- anybody

    def depth(self) -> QueueDepth:
        """How many groups are where."""
        with self._errors():
            self._ensure_group()
            pipe = self._client.pipeline(transaction=True)
            pipe.xlen(self._groups)
            pipe.xpending(self._groups, CONSUMER_GROUP)
            pipe.xlen(self._dead)
            length, pending, dead = pipe.execute()
        # Acknowledged entries are deleted: what is in the stream and not pending was never delivered.
        return QueueDepth(waiting=max(0, length - pending["pending"]), pending=pending["pending"], dead=dead)

    def dead_letters(self, count: int = 1000) -> list[DeadLetter]:
        """The newest `count` groups that were given up, oldest first."""
        with self._errors():
            entries: list[_Entry] = self._client.xrevrange(self._dead, count=count)
        return [
            DeadLetter(fields[b"group_id"].decode(), int(fields[b"step"]), fields[b"reason"].decode())
            for _, fields in reversed(entries)
        ]

    def drop(self) -> None:
        """Delete every key of the run, dedupe included."""
        with self._errors():
            for key in self._client.scan_iter(match=_escaped(self._prefix) + "*", count=1000):
                self._client.unlink(key)
        self._ready.clear()
        self._held.clear()

    def close(self) -> None:
        """Close the connections. What is pending stays pending."""
        self._client.close()

    # ------------------------------------------------------------------------------------------- taking, in steps

    def _ensure_group(self) -> None:
        try:
            self._client.xgroup_create(self._groups, CONSUMER_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _recover(self, count: int) -> None:
        """Up to `count` groups delivered before: to this consumer or, if held too long, to another.

        XCLAIM of chosen entries, because XAUTOCLAIM and reading the own pending list would also raise the delivery
        counts of entries that this object holds.
        """
        wanted = count + len(self._ready)
        self._claim(self.consumer, count, min_idle_ms=0)
        for other in self._client.xinfo_consumers(self._groups, CONSUMER_GROUP):
            name = other["name"].decode()
            if name != self.consumer and other["pending"] and len(self._ready) < wanted:
                self._claim(name, wanted - len(self._ready), min_idle_ms=self._dead_after_ms)

    def _claim(self, consumer: str, count: int, *, min_idle_ms: int) -> None:
        pending = self._client.xpending_range(
            self._groups,
            CONSUMER_GROUP,
            min="-",
            max="+",
            count=count + len(self._held),
            consumername=consumer,
            idle=min_idle_ms,
        )
        deliveries = {p["message_id"]: p["times_delivered"] + 1 for p in pending if p["message_id"] not in self._held}
        wanted = list(deliveries)[:count]
        if not wanted:
            return
        claimed = self._client.xclaim(self._groups, CONSUMER_GROUP, self.consumer, min_idle_ms, wanted)
        for entry, fields in claimed:
            # Redis 6.2 answers nil for an entry that somebody deleted while it was pending.
            if fields is not None:
                self._accept(entry, fields, deliveries[entry])

    def _receive(self, count: int, *, block_s: float) -> None:
        # A block of 0 would wait for ever.
        block_ms = int(block_s * 1000) or None
        answer = self._client.xreadgroup(
            CONSUMER_GROUP, self.consumer, {self._groups: ">"}, count=count, block=block_ms
        )
        for _, entries in answer:
            for entry, fields in entries:
                self._accept(entry, fields, deliveries=1)

    def _accept(self, entry: bytes, fields: dict[bytes, bytes], deliveries: int) -> None:
        group_id = fields[b"group_id"].decode()
        if deliveries > self._max_deliveries:
            self.dead_letter(group_id, f"delivered {deliveries - 1} times and never acknowledged")
            return
        try:
            group = decode_group(self._client.get(self._body(group_id)), fields)
        except DataError as error:
            self.dead_letter(group_id, str(error))
            return
        self._held[entry] = group_id
        self._ready.append(group)

    def _release(self, group_ids: Sequence[str]) -> None:
        gone = set(group_ids)
        self._held = {entry: held for entry, held in self._held.items() if held not in gone}
        self._ready = deque(group for group in self._ready if group.group_id not in gone)

    def _body(self, group_id: str) -> str:
        return f"{self._prefix}body:{group_id}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise QueueUnavailable(_sentence(error, self._where)) from error


_Entry = tuple[bytes, dict[bytes, bytes]]


def _sentence(error: redis.RedisError, where: str) -> str:
    text = str(error)
    if "maxmemory" in text:
        return f"Redis at {where} is full and stores nothing more: raise its maxmemory, or wait for the learner."
    if "MISCONF" in text or isinstance(error, redis.ReadOnlyError):
        return f"Redis at {where} cannot write ({text}): free its disk, or point queue.url at a primary."
    if isinstance(error, redis.AuthenticationError):
        return f"Redis at {where} refused the password in queue.url."
    if isinstance(error, redis.TimeoutError):
        return f"Redis at {where} did not answer in time."
    if isinstance(error, redis.ConnectionError):
        return f"Redis at {where} cannot be reached ({text}): start it, or correct queue.url."
    return f"Redis at {where} refused: {text}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _escaped(prefix: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix)
