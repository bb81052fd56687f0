"""AdamW with the run's schedule: linear warm-up, then linear decay, gradients scaled to a norm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from shared.settings import OptimizerSettings
from trainer.policy import Policy


class Optimizer:
    """The trained weights of one policy and AdamW moments for them, float32."""

    def __init__(self, policy: Policy, settings: OptimizerSettings, *, learning_rate: float, total_steps: int) -> None:
        self.policy = policy
        self.settings = settings
        self.peak = learning_rate
        self.total_steps = total_steps
        self.adamw = torch.optim.AdamW(
            policy.parameters(),
            lr=learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,  # each weight is read and written once
        )

    def fresh(self, policy: Policy) -> Optimizer:
        """One of the same schedule with moments of its own, for the weights of `policy`."""
        return Optimizer(policy, self.settings, learning_rate=self.peak, total_steps=self.total_steps)

    def learning_rate(self, step: int, *, share: float = 1.0) -> float:
        """The rate at training step `step` (0-based): up to the peak over the warm-up, then down to its final share."""
        warmup = self.settings.warmup_steps
        if step < warmup:
            return share * self.peak * (step + 1) / warmup
        progress = (step - warmup) / max(self.total_steps - 1 - warmup, 1)
        return share * self.peak * (1 - (1 - self.settings.final_share) * min(progress, 1.0))

    @contextlib.contextmanager
    def gradient_step(self, step: int, metrics: dict[str, float], prefix: str, *, share: float = 1.0) -> Iterator[None]:
        """Gradients accumulated inside become one update at the end.

        Records the norm before scaling and counts the updates; a norm that is not finite skips the update and is
        counted too.
        """
        self.adamw.zero_grad(set_to_none=True)
        yield
        self.policy.sum_gradients()
        norm: Tensor = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.max_grad_norm)
        metrics[f"{prefix}/grad_norm"] = float(norm)
        finite = bool(torch.isfinite(norm))
        for key, done in (("optimizer_steps", finite), (f"{prefix}/skipped_updates", not finite)):
            metrics[key] = metrics.get(key, 0.0) + done
        if finite:
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate(step, share=share)
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self.adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state)
