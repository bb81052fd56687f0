"""The unit of work of a run: one prompt of one step, and how often it was sampled anew.

A run trains on every slot of its steps exactly once. A group that is dropped gives its slot back, and the next group
of it is another attempt with an id of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from shared.protocol import RolloutGroup

_ID = re.compile(r"-s(\d{6,})-g(\d{3,})(?:-a(\d+))?$")


@dataclass(frozen=True, order=True)
class Slot:
    """Prompt `index` of training step `step` (both 0-based); `attempt` 0 is the first group of it."""

    step: int
    index: int
    attempt: int = 0

    @classmethod
    def of(cls, group: RolloutGroup) -> Self:
        """The slot a group was made for."""
        return cls(group.step, group.index, group.attempt)

    @classmethod
    def parse(cls, group_id: str) -> Self | None:
        """The slot that a group's id names; None where it names none."""
        match = _ID.search(group_id)
        return cls(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None

    def group_id(self, run_id: str) -> str:
        """The id of the group of this slot: the same whoever makes it."""
        again = f"-a{self.attempt}" if self.attempt else ""
        return f"{run_id}-s{self.step:06d}-g{self.index:03d}{again}"

    def number(self, prompts_per_step: int) -> int:
        """Its place in the run's order of prompts, whatever the attempt."""
        return self.step * prompts_per_step + self.index
