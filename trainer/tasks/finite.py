"""`TaskSet` of a list: every task once in each epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from shared.protocol import Task


class FiniteTasks:
    """Every training task once in each epoch, each epoch in an order of its own drawn by `seed`."""

    def __init__(self, training: Sequence[Task], held_out: Sequence[Task], *, seed: int) -> None:
        self.all_training, self._held_out, self._seed = list(training), list(held_out), seed

    def training(self, step: int, count: int) -> list[Task]:
        """Tasks `step * count` to `(step + 1) * count` of the endless sequence of epochs."""
        size = len(self.all_training)
        positions = range(step * count, (step + 1) * count)
        orders = {epoch: self._order(epoch) for epoch in {p // size for p in positions}}
        return [self.all_training[orders[p // size][p % size]] for p in positions]

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks, or all there are if fewer."""
        return self._held_out[:count]

    def with_training(self, training: Sequence[Task]) -> FiniteTasks:
        """The same, with these training tasks."""
        return FiniteTasks(training, self._held_out, seed=self._seed)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.all_training)))
        random.Random(f"epoch:{self._seed}:{epoch}").shuffle(order)
        return order
