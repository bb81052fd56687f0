"""The processes that train one policy together: what is divided among them, and what they tell each other.

Each rank knows all rows of a step and computes on its share. Denominators are of all rows and gradients are summed over
the ranks, so that several ranks compute what one would, to rounding. Where all weights are trained they are divided as
well (`sharding.py`); where an adapter is, every rank has base and adapter whole. With one rank nothing is divided, and
there is no process group. How ranks are started is in `launch.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.row_layout import taken
from trainer.scores import Sequences

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.policy import Policy

Sums = dict[str, tuple[float, float]]
"""By name: a sum and how many values are in it."""
_END = "end"


@dataclass(frozen=True)
class Round:
    """A micro-batch of each rank, by indices of rows. `counts` is False where this rank has none left: its row is
    then scored like the others', for the collectives inside, and its result is not used."""

    mine: list[int]
    counts: bool
    everyone: list[int]


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; rank 0 leads. The weights are divided over `mesh`; None: every rank has them whole.
    `orders_group` carries what rank 0 says, which may be hours apart."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    mesh: DeviceMesh | None = None
    orders_group: Any = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    # ------------------------------------------------------------------------------------------------ dividing rows

    def rounds(self, policy: Policy, *aligned: Sequences) -> list[Round]:
        """Micro-batches of `policy.spans` for this rank's share of the rows; every rank has as many.

        Divided weights are gathered in each forward and backward pass: a rank that made fewer would leave the others
        waiting.
        """
        lengths = [sum(len(s.prompts[i]) + len(s.responses[i]) for s in aligned) for i in range(len(aligned[0]))]
        if not lengths:
            return []
        batches = [_micro_batches(policy, share, aligned) for share in _shares(lengths, self.size)]
        idle = [min(range(len(lengths)), key=lengths.__getitem__)]
        rounds = []
        for i in range(max(map(len, batches))):
            of_ranks = [own[i] if i < len(own) else [] for own in batches]
            mine = of_ranks[self.rank]
            rounds.append(Round(mine or idle, bool(mine), [row for rows in of_ranks for row in rows]))
        return rounds

    # --------------------------------------------------------------------------------------------------- collectives

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, the same on each. In place."""
        self.sum_each([values])
        return values

    def sum_each(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its sum over ranks, the same on each; every rank names as many."""
        if self.size == 1:
            return
        self.gathered(None)  # a rank whose rows take longer may come later than NCCL waits
        for tensor in tensors:
            dist.all_reduce(tensor)

    def total(self, value: float) -> float:
        """The sum over ranks of a number."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def merged(self, sums: Sums) -> Sums:
        """Sums and counts over ranks; a rank may lack a name."""
        merged: Sums = {}
        for found in self.gathered(sums):
            for name, (total, count) in found.items():
                before = merged.get(name, (0.0, 0.0))
                merged[name] = (before[0] + total, before[1] + count)
        return merged if self.size > 1 else sums

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, by rank. Small objects only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.orders_group)
        return values

    # --------------------------------------------------------------------------------------------- rank 0 has the word

    def order(self, name: str, *arguments: Any) -> None:
        """Rank 0: the others now do what they know by this name, as rank 0 does itself. Nothing on the others."""
        if self.size > 1 and self.leads:
            dist.broadcast_object_list([(name, arguments)], src=0, group=self.orders_group)

    def dismiss(self) -> None:
        """Rank 0: there will be no more orders."""
        self.order(_END)

    def orders(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The others: what rank 0 orders, until it dismisses them."""
        while True:
            order: list[Any] = [None]
            dist.broadcast_object_list(order, src=0, group=self.orders_group)
            name, arguments = order[0]
            if name == _END:
                return
            yield name, arguments


ALONE = Ranks()


def _shares(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row indices by rank, about as many tokens each: the longest row first, always to the rank that has least."""
    shares: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = min(range(size), key=tokens.__getitem__)
        shares[least].append(row)
        tokens[least] += lengths[row]
    # Longest first: rows of like length share a pass, with little padding, and memory runs out in the first if at all.
    return shares


def _micro_batches(policy: Policy, share: list[int], aligned: Sequence[Sequences]) -> list[list[int]]:
    return [share[span] for span in policy.spans(*(taken(sequences, share) for sequences in aligned))]
