"""The trajectory queue: prompt groups from collectors to the learner, through Redis Streams.

Delivery is at least once, effect is exactly once: a group is published under its id (a repeat is refused), handed
out to one consumer, and acknowledged when the checkpoint that contains its effect is durable. Until then it is
pending, and comes back to whoever takes next under the same consumer name after a crash.

Keys of a run, all in one hash slot (`P` is `vpd:{RUN_ID}:`):
    P groups     stream of small entries: group id, step, version, bytes and sha256 of the body
    P body:ID    the body of a group; the stream entry is its claim check
    P known      hash of published group ids to their step and entry; outlives the acknowledgement
    P floor      the step below which every slot is settled: groups of such steps are refused, and no longer `known`
    P dead       stream of groups given up, each with a reason; their bodies stay for inspection

Who is at work on which prompt slot is in `shared/slot_leases.py`, how a body is written in `shared/group_codec.py`, and
what happens as a whole or not at all in `shared/queue_scripts.py`. What is stored is bounded by admission (a slot is
reserved below a limit that follows the policy version) and by `settle_below`, never by trimming the stream.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import redis

from shared import queue_scripts as scripts
from shared.errors import DataError
from shared.group_codec import decode_group, digest, encode_group
from shared.prompt_slots import Slot
from shared.protocol import RolloutGroup
from shared.settings import QueueSettings
from shared.slot_leases import SlotLeases

CONSUMER_GROUP = "learner"
_FULL_SHARE = 0.9
# Shorter than the answer timeout, or every idle wait would look like a lost connection.
_BLOCK_S = 2.0


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


class TrajectoryQueue(SlotLeases):
    """One run's queue, as a collector or the consumer named `consumer` sees it. Not for use by several threads.

    A consumer name is stable across restarts: two live processes must not share one. Entries that a consumer of
    another name has held for `dead_after_s` seconds are taken over. Every method raises QueueUnavailable when Redis
    does not answer or refuses to store; calling again later is safe, and nothing taken is lost in between.
    """

    def __init__(
        self, settings: QueueSettings, run_id: str, *, consumer: str = "learner-0", dead_after_s: float = 3600.0
    ) -> None:
        super().__init__(settings, run_id, consumer=consumer)
        self._max_deliveries = settings.max_deliveries
        self._dead_after_ms = int(dead_after_s * 1000)
        self._groups, self._known, self._floor, self._dead = map(self._key, ("groups", "known", "floor", "dead"))
        self._ready: deque[RolloutGroup] = deque()
        self._held: dict[str, bytes] = {}

    # ------------------------------------------------------------------------------------------------- producers

    def publish(self, group: RolloutGroup) -> bool:
        """Add a group and end its slot's lease. False where a group of this id was published before, whatever became of
        it, or its step is settled."""
        if group.run_id != self.run_id:
            raise DataError(
                f"Group {group.group_id} is of run {group.run_id}, the queue of {self.run_id}.", field="run_id"
            )
        body = encode_group(group)
        keys = [self._known, self._groups, self._body(group.group_id), self._floor, self._leases, self._holders]
        values = [group.group_id, body, group.step, group.policy_version, len(body), digest(body)]
        return bool(self._run(scripts.PUBLISH, keys, CONSUMER_GROUP, *values))

    def known(self, group_ids: Sequence[str]) -> list[bool]:
        """Whether each was published and is not lost. A group of a settled step is known."""
        if not group_ids:
            return []
        with self._errors():
            found = self._client.hmget(self._known, list(group_ids))
            floor = int(self._client.get(self._floor) or 0)
        slots = map(Slot.parse, group_ids)
        settled = [slot is not None and slot.step < floor for slot in slots]
        return [entry is not None or below for entry, below in zip(found, settled, strict=True)]

    # ------------------------------------------------------------------------------------------------- consumers

    def take(self, count: int, *, timeout_s: float) -> list[RolloutGroup]:
        """Up to `count` groups: as soon as there are so many, else those that came within `timeout_s` seconds.

        First this consumer's own pending ones that this object has not handed out, then those of dead consumers,
        then new ones. A group delivered too often, or whose body is missing or damaged, becomes a dead letter.
        """
        deadline = time.monotonic() + timeout_s
        with self._errors():
            while len(self._ready) < count:
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    self._fetch(count, block_s=min(_BLOCK_S, left_s))
                except redis.ResponseError as error:
                    if "NOGROUP" not in str(error):
                        raise
                    # Not made in advance: a Redis that is full refuses to, also where there is one.
                    self._make_group()
                    continue
                if not left_s:
                    break
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    def ack(self, group_ids: Iterable[str]) -> None:
        """Forget these groups for good: their effect is durable. Acknowledging twice does nothing."""
        done = list(dict.fromkeys(group_ids))
        if not done:
            return
        keys = [self._known, self._groups, *map(self._body, done)]
        self._run(scripts.ACKNOWLEDGE, keys, CONSUMER_GROUP, *done)
        self._forget(done)

    def dead_letter(self, group_id: str, reason: str) -> None:
        """Give a group up for `reason`. Its body stays for inspection; a group already settled stays as it is."""
        keys = [self._known, self._groups, self._dead]
        self._run(scripts.DEAD_LETTER, keys, CONSUMER_GROUP, group_id, reason)
        self._forget([group_id])

    def give_back(self, group_id: str, slot: Slot) -> None:
        """Drop the group of `slot`, whether it waits, is pending or dead, and let its prompt be sampled again as the
        slot's next attempt. Does nothing to a group that is not there, so giving back twice is giving back once."""
        again = replace(slot, attempt=slot.attempt + 1).group_id(self.run_id)
        keys = [self._known, self._groups, self._dead, self._leases, self._body(group_id)]
        self._run(scripts.GIVE_BACK, keys, CONSUMER_GROUP, group_id, again)
        self._forget([group_id])

    def settle_below(self, step: int) -> None:
        """Every slot of the steps below `step` is settled for good: their groups are forgotten, and refused.
        Dead letters stay for inspection."""
        self._run(scripts.RAISE_FLOOR, [self._floor], step)
        with self._errors():
            known = self._client.hgetall(self._known)
        settled = [group_id.decode() for group_id, value in known.items() if int(value.split()[0]) < step]
        if settled:
            keys = [self._known, self._groups, *map(self._body, settled)]
            self._run(scripts.FORGET, keys, CONSUMER_GROUP, *settled)
            self._forget(settled)

    def reopen(self, group_ids: Iterable[str]) -> None:
        """Let groups be published again that were acknowledged or are dead: the learner has lost their effect. Lowers
        the floor of `settle_below` to their steps, and where slots are open gives theirs back. What is still in the
        stream stays as it is."""
        lost = {group_id: slot for group_id in group_ids if (slot := Slot.parse(group_id)) is not None}
        if not lost:
            return
        keys = [self._known, self._groups, self._dead, self._floor, self._leases, self._next, *map(self._body, lost)]
        lowest = min(slot.step for slot in lost.values())
        reopened = self._run(scripts.REOPEN, keys, lowest, *lost)
        self._forget([group_id.decode() for group_id in reopened])

    # --------------------------------------------------------------------------------------------------- anybody

    def depth(self) -> QueueDepth:
        """How many groups are where."""
        length, pending, dead = self._run(scripts.SIZES, [self._groups, self._dead], CONSUMER_GROUP)
        # Acknowledged entries are deleted: what is in the stream and not pending was never delivered.
        return QueueDepth(waiting=max(0, length - pending), pending=pending, dead=dead)

    def is_full(self) -> bool:
        """Whether Redis has used nine tenths of the memory it may, so that it will soon store nothing more."""
        with self._errors():
            memory: dict[str, int] = self._client.info("memory")
        return 0 < memory["maxmemory"] <= memory["used_memory"] / _FULL_SHARE

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
        super().drop()
        self._ready.clear()
        self._held.clear()

    # ------------------------------------------------------------------------------------------- taking, in steps

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._groups, CONSUMER_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _fetch(self, wanted: int, *, block_s: float) -> None:
        """Come as close to `wanted` groups that are ready as can be done at once, else with the first that arrive."""
        self._recover(wanted)
        if (missing := wanted - len(self._ready)) > 0:
            self._receive(missing, block_s=block_s)

    def _recover(self, wanted: int) -> None:
        """Groups delivered before: to this consumer or, if held too long, to another.

        XCLAIM of chosen entries, because XAUTOCLAIM and reading the own pending list would also raise the delivery
        counts of entries that this object holds.
        """
        self._claim(self.consumer, wanted - len(self._ready), min_idle_ms=0)
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
        held = set(self._held.values())
        deliveries = {p["message_id"]: p["times_delivered"] + 1 for p in pending if p["message_id"] not in held}
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
        if group_id in self._held:
            # A Redis that was killed may have lost the delivery, or the group until it was published again.
            self._held[group_id] = entry
            return
        if deliveries > self._max_deliveries:
            self.dead_letter(group_id, f"delivered {deliveries - 1} times and never acknowledged")
            return
        try:
            group = decode_group(self._client.get(self._body(group_id)), fields)
        except DataError as error:
            self.dead_letter(group_id, str(error))
            return
        self._held[group_id] = entry
        self._ready.append(group)

    def _forget(self, group_ids: Sequence[str]) -> None:
        gone = set(group_ids)
        self._held = {held: entry for held, entry in self._held.items() if held not in gone}
        self._ready = deque(group for group in self._ready if group.group_id not in gone)


_Entry = tuple[bytes, dict[bytes, bytes]]
