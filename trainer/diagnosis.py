"""How well the informed network tells successes from failures, whatever the algorithm: the implicit reward's margin.

The network with the E-step's context is compared with itself alone and with the initial model. Under a prior that moves
with the student, the margin shrinks as the student catches up; against the initial model it shows what was learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.policy import Policy
from trainer.scores import Sequences


class Diagnosis:
    """Measures every `every` steps; made before the first step, from the initial weights. None never measures."""

    def __init__(self, policy: Policy, every: int | None) -> None:
        self.policy = policy
        self.every = every
        self.initial = policy.twin() if every is not None else policy

    def __call__(self, batch: Batch) -> dict[str, float]:
        """log q(y|x,C) - log pi(y|x) of the batch's judged rows by outcome, in nats, and their difference.

        `q` is the network with the context; `pi` the student (`student/*`) or the initial model (`initial/*`).
        """
        if self.every is None or batch.step % self.every != 0:
            return {}
        rows = [row for row in batch.rows if row.e_prompt is not None and row.success is not None]
        if not rows:
            return {}
        responses = [row.response_ids for row in rows]
        alone = Sequences([row.group.prompt_token_ids for row in rows], responses)
        informed = self.policy.response_logprobs(
            Sequences([row.e_prompt.token_ids for row in rows if row.e_prompt], responses)
        )
        success = torch.tensor([bool(row.success) for row in rows], device=informed.device)
        found: dict[str, float] = {}
        for name, prior in (("student", self.policy), ("initial", self.initial)):
            found |= _by_outcome(f"diagnosis/{name}", informed - prior.response_logprobs(alone), success)
        return found


def _by_outcome(name: str, log_ratio: Tensor, success: Tensor) -> dict[str, float]:
    """Means of `log_ratio` [rows] over each outcome that occurs, and the margin where both do."""
    found = {
        f"{name}_{outcome}_nats": float(log_ratio[rows].mean())
        for outcome, rows in (("success", success), ("failure", ~success))
        if rows.any()
    }
    if len(found) == 2:
        found[f"{name}_margin_nats"] = found[f"{name}_success_nats"] - found[f"{name}_failure_nats"]
    return found
