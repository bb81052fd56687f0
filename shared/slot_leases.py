"""Who is at work on which prompt slot, where several collectors share a run (`rollout.mode` overlapped).

A collector leases slots, samples their groups, and publishes them, which ends the leases. A lease that runs out, by
Redis's own clock, and a slot given back are leased to whoever reserves next, so that a slot is never lost, whoever dies
in between. That two collectors can then come to hold one slot costs work and no more: the queue takes one of the
groups and refuses the other as known.

Keys of a run (`P` is `vpd:{RUN_ID}:`):
    P next       number of the first slot that nobody ever reserved
    P leases     sorted set of reserved slots, each as the id of its group, by the end of the lease in ms; 0: given back
    P holders    hash of each leased slot to the collector that holds it
"""

from __future__ import annotations

from collections.abc import Sequence

from shared import queue_scripts as scripts
from shared.prompt_slots import Slot
from shared.queue_connection import QueueConnection
from shared.settings import QueueSettings


class SlotLeases(QueueConnection):
    """The slots of one run, as the collector named `consumer` sees them."""

    def __init__(self, settings: QueueSettings, run_id: str, *, consumer: str) -> None:
        super().__init__(settings, run_id, consumer=consumer)
        self._lease_ms = int(settings.lease_s * 1000)
        self._next, self._leases, self._holders = (self._key(name) for name in ("next", "leases", "holders"))

    def open_slots(self, next_number: int) -> None:
        """Let collectors reserve slots from number `next_number` on. Does nothing where they may already."""
        self._run(scripts.OPEN_SLOTS, [self._next], next_number)

    def reserve(self, count: int, *, limit: int, prompts_per_step: int) -> list[Slot] | None:
        """Lease up to `count` slots: those given back, then those whose lease has run out, then new ones with a number
        below `limit` that no group was published for. None where nobody has opened the slots."""
        keys = [self._next, self._leases, self._holders, self._key("known")]
        found = self._run(
            scripts.RESERVE, keys, self.run_id, self.consumer, self._lease_ms, count, limit, prompts_per_step
        )
        return None if found is None else [_slot(group_id) for group_id in found]

    def renew(self, slots: Sequence[Slot]) -> list[Slot]:
        """Begin the leases of these slots anew; answers those that this collector still holds, the others being
        published, or held by another."""
        group_ids = [slot.group_id(self.run_id) for slot in slots]
        keys = [self._leases, self._holders]
        return [_slot(held) for held in self._run(scripts.RENEW, keys, self.consumer, self._lease_ms, *group_ids)]

    def release(self) -> None:
        """Give back all slots held under this collector's name: for its start, as the one before it has died."""
        self._run(scripts.RELEASE, [self._leases, self._holders], self.consumer)


def _slot(group_id: bytes) -> Slot:
    slot = Slot.parse(group_id.decode())
    assert slot is not None, group_id
    return slot
