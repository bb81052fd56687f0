"""What the E-step of VPD stands on: which rows it trains on, when it is left out, and what to watch.

The step itself is in `vpd.py`, its loss in `trainer/objectives/bco.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.algorithms.base import Metrics
from trainer.batch import Batch

SATURATED = 5.0
"""Beyond this |r - delta| the sigmoid of BCO has a slope below 0.7 %."""


@dataclass(frozen=True)
class Judged:
    """What the E-step needs of a row with an outcome and a context: plain, so that it fits into a checkpoint.
    `sources` are those whose text stands in the context."""

    prompt_ids: list[int]
    teacher_ids: list[int]
    response_ids: list[int]
    success: bool
    sources: tuple[str, ...] = ()


class OutcomeBuffer:
    """The judged rows of the last steps."""

    def __init__(self, steps: int) -> None:
        self.steps: deque[list[Judged]] = deque(maxlen=steps)

    def add(self, batch: Batch, outcomes: Literal["both", "successes", "failures"]) -> None:
        """Keep the rows of a step that have an outcome, of the wanted ones, and a context."""
        self.steps.append(
            [
                Judged(
                    row.group.prompt_token_ids,
                    row.e_prompt.token_ids,
                    row.response_ids,
                    bool(row.success),
                    row.e_prompt.sources,
                )
                for row in batch.rows
                if row.e_prompt is not None and (outcomes == "both" or row.success is (outcomes == "successes"))
            ]
        )

    def rows(self) -> list[Judged]:
        """All that are kept, oldest first."""
        return [row for kept in self.steps for row in kept]

    def state_dict(self) -> list[list[dict[str, Any]]]:
        """The steps that the next one will still find."""
        kept = (self.steps.maxlen or 1) - 1
        return [[asdict(row) for row in rows] for rows in (list(self.steps)[-kept:] if kept else [])]

    def load_state_dict(self, state: list[list[dict[str, Any]]]) -> None:
        self.steps.clear()
        self.steps.extend([Judged(**row) for row in rows] for rows in state)


class AccuracyGate:
    """Closed while the teacher's accuracy is `drop` below its best: a teacher that fails is not refined further.

    Teacher accuracy falls some ten steps before the student's. `drop` None never closes.
    """

    def __init__(self, drop: float | None) -> None:
        self.drop = drop
        self.open = True
        self.best = 0.0

    def observe(self, accuracy: float) -> None:
        """Take in an accuracy, a share."""
        self.best = max(self.best, accuracy)
        self.open = self.drop is None or accuracy > self.best - self.drop

    def state_dict(self) -> dict[str, Any]:
        return {"open": self.open, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.open, self.best = state["open"], state["best"]


def diagnostics(
    log_ratio: Tensor,
    reward: Tensor,
    success: Tensor,
    delta: float,
    weight: Tensor,
    sources: Sequence[Sequence[str]] = (),
) -> Metrics:
    """What to watch: the implicit reward by outcome, its margin, its saturation, how many rows still push, and the
    log-ratio by outcome and source.

    `log_ratio` (nats), `reward`, `weight` float [rows]; `success` bool [rows]; `sources` whose text each row's context
    holds.
    """
    metrics: Metrics = {"e_step/delta": delta, "e_step/active_share": float((weight > 0).float().mean())}
    metrics["e_step/saturated_share"] = float(((reward - delta).abs() > SATURATED).float().mean())
    for name, rows in (("success", success), ("failure", ~success)):
        metrics[f"e_step/{name}_rows"] = float(rows.sum())
        if rows.any():
            metrics[f"e_step/{name}_reward"] = float(reward[rows].mean())
            metrics[f"e_step/{name}_lift_nats"] = float(log_ratio[rows].mean())
            for percent in (10, 50, 90):
                metrics[f"e_step/{name}_reward_p{percent}"] = float(reward[rows].quantile(percent / 100))
    if success.any() and not success.all():
        metrics["e_step/margin"] = metrics["e_step/success_reward"] - metrics["e_step/failure_reward"]
    for source in sorted({source for of_row in sources for source in of_row}):
        held = torch.tensor([source in of_row for of_row in sources], device=success.device)
        for name, rows in (("success", held & success), ("failure", held & ~success)):
            if rows.any():
                metrics[f"source/{source}/e_step_{name}_lift_nats"] = float(log_ratio[rows].mean())
    return metrics
