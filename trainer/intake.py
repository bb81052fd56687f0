"""Which groups off the queue a training step counts: every prompt slot once, the others dropped with a reason.

Lockstep takes all slots of the step, made by the step's own policy version. Overlapped takes the oldest slots that are
there, made by versions at most `rollout.max_policy_lag` behind; a staler group is dropped and its prompt sampled again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from shared.errors import DataError, InfrastructureError, QueueUnavailable
from shared.prompt_slots import Slot
from shared.protocol import RolloutGroup
from shared.settings import Settings
from shared.trajectory_queue import TrajectoryQueue
from trainer.ledger import Ledger
from trainer.patience import patiently

log = structlog.get_logger("intake")
_TAKE_S = 1.0
_MANY = 1000
_WAITING_NOTE_S = 60.0
_DROPPED_STEPS = 10
"""Groups dropped one after the other, in steps' worth, after which the run stops instead of spinning."""


class Intake(ABC):
    """One run's groups, as the learner counts them. `stopping` says whether the learner was asked to stop.

    A group is acknowledged by `acknowledge`, which the learner calls when a checkpoint contains its effect.
    """

    def __init__(
        self, settings: Settings, queue: TrajectoryQueue, ledger: Ledger, *, stopping: Callable[[], bool]
    ) -> None:
        self.queue = queue
        self.ledger = ledger
        self.prompts = settings.rollout.prompts_per_step
        self.max_policy_lag = settings.rollout.max_policy_lag
        self.max_outage_s = settings.queue.max_outage_s
        self.stopping = stopping
        self.held: dict[str, RolloutGroup] = {}
        self.waited_s = 0.0
        self._unacknowledged: dict[str, None] = {}
        self._dropped_in_a_row = 0

    async def groups_of(self, step: int, idle: Callable[[], Awaitable[None]]) -> list[RolloutGroup] | None:
        """The groups to train on at `step`, in the order of their slots; None if asked to stop while waiting.

        Awaits `idle` whenever nothing has come for a while. Raises InfrastructureError where nothing can come any more.
        """
        began = noted = time.monotonic()
        while (chosen := await self._choose(step)) is None:
            if self.stopping():
                return None
            # All that is there, so that the oldest can be chosen; and only where nothing is, a wait.
            taken = await self._queue(lambda: self.queue.take(_MANY, timeout_s=0))
            taken = taken or await self._queue(lambda: self.queue.take(1, timeout_s=_TAKE_S))
            for group in taken:
                await self._hold(group, step)
            await self._drop_dead_letters(step)
            if not taken:
                await idle()
            if time.monotonic() - noted > _WAITING_NOTE_S:
                noted = time.monotonic()
                have, wanted = len(self.held), self.prompts
                log.warning("waiting for rollouts; is a collector up?", step=step, have=have, wanted=wanted)
        self.waited_s = time.monotonic() - began
        self._dropped_in_a_row = 0
        return chosen

    def count(self, groups: Sequence[RolloutGroup]) -> None:
        """These groups have been trained on; they are acknowledged with the next checkpoint."""
        for group in groups:
            self.held.pop(group.group_id, None)
            self._unacknowledged[group.group_id] = None

    async def acknowledge(self, step: int) -> None:
        """Forget the counted groups in the queue: their effect is in the durable checkpoint of `step`."""
        done = list(self._unacknowledged)
        try:
            await self._queue(lambda: self.queue.ack(done))
            await self._queue(lambda: self.queue.settle_below(self._settled_steps(step)))
        except QueueUnavailable as error:
            if not self.stopping():
                raise
            log.warning("groups are acknowledged when the run is started again", reason=str(error))
        self._unacknowledged = {}

    async def begin(self, uncounted: Sequence[str]) -> None:
        """Before the first live step. `uncounted` were counted at it or later, before a crash, and no longer are: they
        may be published again."""
        await self._queue(lambda: self.queue.reopen(uncounted))

    # ---------------------------------------------------------------------------------------------- what differs

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Which slots are counted, for the checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""

    @abstractmethod
    async def _choose(self, step: int) -> list[RolloutGroup] | None:
        """The step's groups out of those held, when they are complete."""

    @abstractmethod
    def _objection(self, group: RolloutGroup, step: int) -> str | None:
        """Why a group may not be trained on at `step` or later; None where it may."""

    @abstractmethod
    def _is_counted(self, slot: Slot, step: int) -> bool:
        """Whether the slot was trained on before `step`."""

    @abstractmethod
    def _settled_steps(self, step: int) -> int:
        """Below which step all slots are counted, in the checkpoint of `step`."""

    @abstractmethod
    async def _drop(self, group_id: str, group: RolloutGroup | None, step: int, reason: str) -> None:
        """Note a drop in the ledger, then in the queue."""

    # --------------------------------------------------------------------------------------------------- in steps

    async def _hold(self, group: RolloutGroup, step: int) -> None:
        if self._is_counted(Slot.of(group), step):
            # Delivered again after a crash, or made twice: its slot has had its effect.
            self._unacknowledged[group.group_id] = None
        elif group.group_id in self.ledger.counted_drops:
            await self._drop(group.group_id, group, step, "")
        elif (reason := self._objection(group, step)) is not None:
            await self._drop(group.group_id, group, step, reason)
        else:
            self.held.setdefault(group.group_id, group)

    async def _drop_dead_letters(self, step: int) -> None:
        for letter in await self._queue(self.queue.dead_letters):
            slot = Slot.parse(letter.group_id)
            known = letter.group_id in self.ledger.counted_drops or letter.group_id in self.held
            if slot is not None and not known and not self._is_counted(slot, step):
                await self._drop(letter.group_id, None, step, letter.reason)

    async def _note_drop(
        self, group_id: str, group: RolloutGroup | None, step: int, reason: str, *, returned: bool
    ) -> None:
        self.held.pop(group_id, None)
        if group_id in self.ledger.counted_drops:
            return
        log.warning("a group is dropped", group=group_id, reason=reason)
        self.ledger.dropped(group, group_id, step=step, reason=reason, returned=returned)
        self._dropped_in_a_row += 1
        if self._dropped_in_a_row >= _DROPPED_STEPS * self.prompts:
            raise InfrastructureError(
                f"The last {self._dropped_in_a_row} groups were all dropped, the last because it was {reason}. Raise "
                "rollout.max_policy_lag, take fewer collectors, or use rollout.mode lockstep; the run resumes."
            )

    async def _queue(self, call: Callable[[], Any]) -> Any:
        return await patiently(call, max_outage_s=self.max_outage_s, stopping=self.stopping)


class LockstepIntake(Intake):
    """All slots of the step; a group the queue gave up is left out of its step."""

    def state_dict(self) -> dict[str, Any]:
        return {}  # the step says it all

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise DataError("This checkpoint is of a run in rollout.mode overlapped.")

    async def _choose(self, step: int) -> list[RolloutGroup] | None:
        run_id = self.queue.run_id
        ids = [Slot(step, index).group_id(run_id) for index in range(self.prompts)]
        wanted = [group_id for group_id in ids if group_id not in self.ledger.counted_drops]
        if not wanted:
            raise InfrastructureError(
                f"Every group of step {step} was given up by the queue (`vpd audit` says why); the last deliveries may "
                "have killed the learner. Raise queue.max_deliveries and start over with --fresh."
            )
        if not all(group_id in self.held for group_id in wanted):
            return None
        return [self.held[group_id] for group_id in wanted]

    def _objection(self, group: RolloutGroup, step: int) -> str | None:
        version = group.policy_version
        return None if version == group.step else f"made by policy version {version} and not {group.step}"

    def _is_counted(self, slot: Slot, step: int) -> bool:
        return slot.step < step

    def _settled_steps(self, step: int) -> int:
        return step

    async def _drop(self, group_id: str, group: RolloutGroup | None, step: int, reason: str) -> None:
        await self._note_drop(group_id, group, step, reason, returned=False)
        await self._queue(lambda: self.queue.dead_letter(group_id, reason))


class OverlappedIntake(Intake):
    """The oldest slots that are there. `_settled` numbers from which slot on not all are counted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._settled = 0
        self._counted_above: set[int] = set()

    def count(self, groups: Sequence[RolloutGroup]) -> None:
        super().count(groups)
        self._counted_above |= {self._number(Slot.of(group)) for group in groups}
        while self._settled in self._counted_above:
            self._counted_above.remove(self._settled)
            self._settled += 1

    async def begin(self, uncounted: Sequence[str]) -> None:
        await super().begin(uncounted)
        await self.open()

    async def open(self) -> None:
        """Let collectors reserve slots, also where Redis has lost everything."""
        await self._queue(lambda: self.queue.open_slots(self._settled))

    def state_dict(self) -> dict[str, Any]:
        return {"settled": self._settled, "counted_above": sorted(self._counted_above)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._settled, self._counted_above = state["settled"], set(state["counted_above"])

    async def _choose(self, step: int) -> list[RolloutGroup] | None:
        for group in list(self.held.values()):
            if (reason := self._objection(group, step)) is not None:
                await self._drop(group.group_id, group, step, reason)
        oldest = sorted(self.held.values(), key=Slot.of)[: self.prompts]
        return oldest if len(oldest) == self.prompts else None

    def _objection(self, group: RolloutGroup, step: int) -> str | None:
        lag = step - group.policy_version
        if lag > self.max_policy_lag:
            return f"stale: made by policy version {group.policy_version}, {lag} behind {step}"
        return None if lag >= 0 else f"made by policy version {group.policy_version}, which was lost: this is {step}"

    def _is_counted(self, slot: Slot, step: int) -> bool:
        number = self._number(slot)
        return number < self._settled or number in self._counted_above

    def _settled_steps(self, step: int) -> int:
        return self._settled // self.prompts

    async def _drop(self, group_id: str, group: RolloutGroup | None, step: int, reason: str) -> None:
        await self._note_drop(group_id, group, step, reason, returned=True)
        slot = Slot.parse(group_id)
        assert slot is not None
        await self._queue(lambda: self.queue.give_back(group_id, slot))

    def _number(self, slot: Slot) -> int:
        return slot.number(self.prompts)
