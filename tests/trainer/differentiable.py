"""The divergences as functions of logits with their closed-form gradients, for tests that compare them by autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.objectives import divergence as closed

Objective = Callable[[Tensor, Tensor], Tensor]


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, divergence: closed.Divergence) -> Tensor:
        log_p = student.log_softmax(-1)
        value, slope = divergence(log_p.exp(), log_p, teacher.log_softmax(-1))
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None


def objective(divergence: closed.Divergence, k: int | None = None) -> Objective:
    """(student's, teacher's logits [tokens, vocabulary]) -> values [tokens]; over the top `k` and the tail if given."""
    chosen = divergence if k is None else partial(closed.over_top_k, divergence, k=k)
    return lambda student, teacher: _ClosedForm.apply(student, teacher, chosen)  # type: ignore[no-any-return, no-untyped-call]


reverse_kl, forward_kl = objective(closed.reverse_kl), objective(closed.forward_kl)


def jsd(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    return objective(partial(closed.jsd, alpha=alpha))(student, teacher)
