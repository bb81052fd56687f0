"""A stateful model of the queue: two producers and three consumers crash, repeat themselves and come back, leases run
out, groups die and are dropped, the learner goes back. Every slot has its effect exactly once.

Time is not waited for: leases and idle times are set to look old.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from queue_builders import make_group, open_queue

from shared.prompt_slots import Slot
from shared.trajectory_queue import TrajectoryQueue

PROMPTS = 2
MAX_DELIVERIES = 2
PRODUCERS = ("collector-0", "collector-1")
CONSUMERS = ("learner-0", "learner-1", "learner-2")
producers, places = st.sampled_from(PRODUCERS), st.integers(0, 1_000_000)
T = TypeVar("T")


@dataclass
class Published:
    """A group in the model: in the `stream`, `settled`, or `dead`. `holder` was handed it last, `deliveries` times."""

    slot: Slot
    state: str = "stream"
    holder: str | None = None
    deliveries: int = 0


@dataclass
class Lease:
    """Who samples a slot; `is_over`: anybody may reserve it."""

    holder: str | None
    is_over: bool = False


@dataclass
class Consumer:
    """A learner's process: what it holds, and what it has trained on since its last checkpoint."""

    queue: TrajectoryQueue
    held: dict[str, Slot] = field(default_factory=dict)
    trained: dict[str, Slot] = field(default_factory=dict)


class QueueModel(RuleBasedStateMachine):
    """Predicts every answer of the queue. What is durable for the learner is `counted` and `dropped`."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.run_id = f"run-{uuid.uuid4().hex[:8]}"
        self.redis = redis.Redis.from_url(self.url)
        self.jobs: dict[str, list[Slot]] = {name: [] for name in PRODUCERS}
        self.producers = {name: self._open(name) for name in PRODUCERS}
        self.consumers: dict[str, Consumer | None] = {name: Consumer(self._open(name)) for name in CONSUMERS}
        self.anybody = self._open("observer")
        self.anybody.open_slots(0)
        self.next = 0
        self.limit = 4
        self.floor = 0
        self.leases: dict[str, Lease] = {}
        self.groups: dict[str, Published] = {}
        self.counted: Counter[int] = Counter()
        self.counted_ids: list[str] = []
        self.dropped: set[str] = set()

    def _open(self, name: str) -> TrajectoryQueue:
        return open_queue(self.url, self.run_id, consumer=name, lease_s=5000, max_deliveries=MAX_DELIVERIES)

    # -------------------------------------------------------------------------------------------------- producers

    @rule(name=producers, count=st.integers(1, 3), publishes=st.booleans())
    def produce(self, name: str, count: int, publishes: bool) -> None:
        for slot in self._reserve(name, count):
            if publishes:
                self._publish(self.producers[name], slot)

    def _reserve(self, name: str, count: int) -> list[Slot]:
        free = {group_id for group_id, lease in self.leases.items() if lease.is_over}
        new = [
            slot.group_id(self.run_id)
            for slot in (Slot(*divmod(number, PROMPTS)) for number in range(self.next, self.limit))
        ]
        found = self.producers[name].reserve(count, limit=self.limit, prompts_per_step=PROMPTS)
        assert found is not None
        ids = [slot.group_id(self.run_id) for slot in found]
        recovered = min(count, len(free))
        assert set(ids[:recovered]) <= free
        assert ids[recovered:] == new[: count - recovered]
        self.next += len(ids) - recovered
        self.leases |= {group_id: Lease(name) for group_id in ids}
        self.jobs[name] += found
        return found

    @precondition(lambda self: any(self.jobs.values()))
    @rule(place=places, repeats=st.booleans())
    def publish(self, place: int, repeats: bool) -> None:
        """Of what a producer ever reserved, in any order: it may be late, or do so for the second time."""
        name, slot = one([(name, slot) for name in PRODUCERS for slot in self.jobs[name]], place)
        self._publish(self.producers[name], slot)
        if not repeats:
            self.jobs[name].remove(slot)

    def _publish(self, queue: TrajectoryQueue, slot: Slot) -> None:
        group_id = slot.group_id(self.run_id)
        is_new = group_id not in self.groups and slot.step >= self.floor
        assert queue.publish(make_group(self.run_id, slot)) == is_new
        self.leases.pop(group_id, None)
        if is_new:
            self.groups[group_id] = Published(slot)

    @rule(name=producers)
    def restart_producer(self, name: str) -> None:
        """It loses what it was at work on, and gives the leases under its name back."""
        self.producers[name].close()
        self.producers[name], self.jobs[name] = self._open(name), []
        self.producers[name].release()
        for lease in self.leases.values():
            if lease.holder == name:
                lease.holder, lease.is_over = None, True

    @precondition(lambda self: self.leases)
    @rule(place=places)
    def let_a_lease_run_out(self, place: int) -> None:
        group_id = sorted(self.leases)[place % len(self.leases)]
        self.redis.zadd(f"vpd:{{{self.run_id}}}:leases", {group_id: 1}, xx=True)
        self.leases[group_id].is_over = True

    @rule(name=producers)
    def renew(self, name: str) -> None:
        jobs = list(dict.fromkeys(self.jobs[name]))
        held = [s for s in jobs if (lease := self.leases.get(s.group_id(self.run_id))) and lease.holder == name]
        assert self.producers[name].renew(jobs) == held
        for slot in held:
            self.leases[slot.group_id(self.run_id)].is_over = False

    @rule(more=st.integers(1, 3))
    def learn_on(self, more: int) -> None:
        """A policy version is published: more slots may be started."""
        self.limit += more

    # -------------------------------------------------------------------------------------------------- consumers

    @precondition(lambda self: self._living())
    @rule(place=places, count=st.integers(1, 4), trains=st.booleans())
    def take(self, place: int, count: int, trains: bool) -> None:
        name = one(self._living(), place)
        consumer = self._take(name, count)
        if trains:
            consumer.trained |= consumer.held
            consumer.held = {}

    def _living(self) -> list[str]:
        return [name for name in CONSUMERS if self.consumers[name]]

    def _take(self, name: str, count: int) -> Consumer:
        consumer = self.consumers[name]
        assert consumer is not None
        there = {group_id for group_id, group in self.groups.items() if self._may_get(name, group_id, group)}
        dead = {letter.group_id for letter in self.anybody.dead_letters()}
        taken = [group.group_id for group in consumer.queue.take(count, timeout_s=0)]
        died = {letter.group_id for letter in self.anybody.dead_letters()} - dead
        for group_id in [*taken, *died]:
            assert group_id in there
            group = self.groups[group_id]
            group.holder, group.deliveries = name, group.deliveries + 1
            assert (group.deliveries > MAX_DELIVERIES) == (group_id in died)
            group.state = "dead" if group_id in died else "stream"
        assert len(taken) + len(died) >= min(count, len(there))
        for group_id in taken:
            self._receive(consumer, group_id)
        return consumer

    def _may_get(self, name: str, group_id: str, group: Published) -> bool:
        if group.state != "stream":
            return False
        holder = self.consumers.get(group.holder) if group.holder else None
        return group.holder is None or (group.holder == name and group_id not in self._in_hand(holder))

    def _in_hand(self, consumer: Consumer | None) -> set[str]:
        return set() if consumer is None else {*consumer.held, *consumer.trained}

    def _receive(self, consumer: Consumer, group_id: str) -> None:
        """As the learner does with a group: leave out what is counted, drop again what is dropped, hold the rest."""
        slot = self.groups[group_id].slot
        if self.counted[slot.number(PROMPTS)]:
            self._settle(consumer.queue, [group_id])
        elif group_id in self.dropped:
            self._give_back(consumer.queue, group_id)
        else:
            consumer.held[group_id] = slot

    @precondition(lambda self: any(c.trained for c in self.consumers.values() if c))
    @rule(place=places, crashes=st.booleans())
    def checkpoint(self, place: int, crashes: bool) -> None:
        """The effects become durable, then are acknowledged, unless it crashes in between."""
        name, consumer = one([(name, c) for name, c in self.consumers.items() if c and c.trained], place)
        for group_id, slot in consumer.trained.items():
            self.counted[slot.number(PROMPTS)] += 1
            self.counted_ids.append(group_id)
        if crashes:
            self._crash(name)
        else:
            self._settle(consumer.queue, list(consumer.trained))
            consumer.trained = {}

    def _settle(self, queue: TrajectoryQueue, group_ids: list[str]) -> None:
        queue.ack(group_ids)
        for group_id in group_ids:
            self.groups[group_id].state = "settled"

    @precondition(lambda self: self._living())
    @rule(place=places)
    def crash(self, place: int) -> None:
        self._crash(one(self._living(), place))

    def _crash(self, name: str) -> None:
        if consumer := self.consumers[name]:
            consumer.queue.close()
            self.consumers[name] = None

    @precondition(lambda self: len(self._living()) < len(CONSUMERS))
    @rule(place=places, stays_away=st.booleans())
    def come_back(self, place: int, stays_away: bool) -> None:
        name = one([name for name in CONSUMERS if not self.consumers[name]], place)
        if stays_away:
            self._give_up_on(name)
        else:
            self.consumers[name] = Consumer(self._open(name))

    def _give_up_on(self, name: str) -> None:
        """Hours pass: what the crashed consumer held goes to the others."""
        for group in self.groups.values():
            if group.state == "stream" and group.holder == name:
                group.holder = None
        stream = f"vpd:{{{self.run_id}}}:groups"
        pending = self.redis.xpending_range(stream, "learner", "-", "+", 1000, name) if self.groups else []
        for entry in pending:
            self.redis.xclaim(stream, "learner", name, 0, [entry["message_id"]], idle=3_600_001, justid=True)

    @precondition(lambda self: self._all_held())
    @rule(place=places, crashes=st.booleans())
    def drop(self, place: int, crashes: bool) -> None:
        """A held group is stale: that is noted durably, then its slot is given back, unless it crashes in between."""
        name, group_id = one(self._all_held(), place)
        consumer = self.consumers[name]
        assert consumer is not None
        del consumer.held[group_id]
        self.dropped.add(group_id)
        if crashes:
            self._crash(name)
        else:
            self._give_back(consumer.queue, group_id)

    def _all_held(self) -> list[tuple[str, str]]:
        return [(name, group_id) for name, c in self.consumers.items() if c for group_id in sorted(c.held)]

    @precondition(lambda self: self._all_held())
    @rule(place=places)
    def condemn(self, place: int) -> None:
        """A held group turns out to be one that cannot be trained on."""
        name, group_id = one(self._all_held(), place)
        consumer = self.consumers[name]
        assert consumer is not None
        del consumer.held[group_id]
        consumer.queue.dead_letter(group_id, "condemned")
        self.groups[group_id].state = "dead"

    @precondition(lambda self: any(group.state == "dead" for group in self.groups.values()))
    @rule(twice=st.booleans())
    def give_dead_letters_back(self, twice: bool) -> None:
        for letter in self.anybody.dead_letters():
            if not self.counted[self.groups[letter.group_id].slot.number(PROMPTS)]:
                self.dropped.add(letter.group_id)
                for _ in range(1 + twice):
                    self._give_back(self.anybody, letter.group_id)

    def _give_back(self, queue: TrajectoryQueue, group_id: str) -> None:
        group = self.groups[group_id]
        queue.give_back(group_id, group.slot)
        again = Slot(group.slot.step, group.slot.index, group.slot.attempt + 1).group_id(self.run_id)
        if group.state != "settled" and again not in self.groups and again not in self.leases:
            self.leases[again] = Lease(None, is_over=True)
        group.state = "settled"

    @rule()
    def settle(self) -> None:
        """The steps below the first slot that has no durable effect are settled."""
        number = 0
        while self.counted[number]:
            number += 1
        step = number // PROMPTS
        self.anybody.settle_below(step)
        self.floor = max(self.floor, step)
        gone = [g for g, group in self.groups.items() if group.slot.step < step]
        for group_id in gone:
            del self.groups[group_id]
            for consumer in filter(None, self.consumers.values()):
                consumer.held.pop(group_id, None)

    @precondition(lambda self: self.counted_ids)
    @rule(back=st.integers(1, 4))
    def go_back(self, back: int) -> None:
        """All restart from an older checkpoint, which lacks the last `back` effects; their groups are reopened."""
        for name in CONSUMERS:
            self._crash(name)
        lost, self.counted_ids = self.counted_ids[-back:], self.counted_ids[:-back]
        slots = {group_id: slot for group_id in lost if (slot := Slot.parse(group_id))}
        for slot in slots.values():
            self.counted[slot.number(PROMPTS)] -= 1
        self.anybody.reopen(lost)
        self.floor = min([self.floor, *(slot.step for slot in slots.values())])
        for group_id in lost:
            group = self.groups.get(group_id)
            if group is None or group.state != "stream":
                self.groups.pop(group_id, None)
                self.leases.setdefault(group_id, Lease(None, is_over=True))

    # -------------------------------------------------------------------------------------------------- what holds

    @invariant()
    def the_queue_holds_what_the_model_says(self) -> None:
        states = Counter(group.state for group in self.groups.values())
        depth = self.anybody.depth()
        assert (depth.waiting + depth.pending, depth.dead) == (states["stream"], states["dead"])

    @invariant()
    def no_slot_has_its_effect_twice(self) -> None:
        assert max(self.counted.values(), default=0) <= 1

    def teardown(self) -> None:
        """Everybody dies; one collector and one learner finish the work, and no slot is lost."""
        try:
            for name in PRODUCERS:
                self.restart_producer(name)
            for place in range(len(self.leases)):
                self.let_a_lease_run_out(place)
            for name in CONSUMERS:
                self._crash(name)
                self._give_up_on(name)
            self.consumers[CONSUMERS[0]] = Consumer(self._open(CONSUMERS[0]))
            for _ in range(1 + 2 * len(self.leases) + len(self.groups)):
                self.produce(PRODUCERS[0], 3, publishes=True)
                self.give_dead_letters_back(twice=False)
                self.take(0, 100, trains=True)
                if any(c.trained for c in self.consumers.values() if c):
                    self.checkpoint(0, crashes=False)
            assert self.leases == {}
            assert +self.counted == Counter(range(self.next))
            assert {group.state for group in self.groups.values()} <= {"settled", "dead"}
        finally:
            self.anybody.drop()
            for queue in [self.anybody, *self.producers.values()]:
                queue.close()
            for consumer in filter(None, self.consumers.values()):
                consumer.queue.close()
            self.redis.close()


def one(items: Sequence[T], place: int) -> T:
    """An item, chosen by a number that hypothesis makes smaller in search of a simpler example."""
    return items[place % len(items)]


def test_whatever_crashes_every_slot_has_its_effect_exactly_once(redis_url: str) -> None:
    model = type("QueueModel", (QueueModel,), {"url": redis_url})
    run_state_machine_as_test(model, settings=settings(max_examples=200, stateful_step_count=60))
