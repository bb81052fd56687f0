"""Batches over the tiny model, and the tools an algorithm is made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trainer_builders import random_groups

from shared.settings import OptimizerSettings, TeacherPromptSettings
from trainer.algorithms import Tools
from trainer.batch import Batch, BatchBuilder
from trainer.optimisation import Optimizer
from trainer.policy import Policy


def tools(policy: Policy, *, learning_rate: float = 1e-3, total_steps: int = 10, **optimizer: Any) -> Tools:
    """Tools without warm-up, so that the first step already moves at the full rate."""
    settings = OptimizerSettings(**{"warmup_steps": 0, "weight_decay": 0.01} | optimizer)
    return Tools(policy, Optimizer(policy, settings, learning_rate=learning_rate, total_steps=total_steps))


def batches(policy: Policy, count: int, *, samples: int = 3, **prompt: Any) -> list[Batch]:
    """Seeded batches of 2 groups: successes, failures with feedback, and rows without a context. In groups of 6, some
    successes have a successful sibling."""
    builder = BatchBuilder(
        TeacherPromptSettings(**prompt),
        render=policy.render,
        max_context=policy.max_context,
        seed=0,
        shadow=frozenset(),
    )
    return [builder.build(step, random_groups(step, samples=samples)) for step in range(count)]


def assert_gradient(made: Tools, loss: Tensor, step: Callable[[], Any]) -> None:
    """`step` takes one optimizer step whose gradient on the network is that of the scalar `loss`."""
    network = made.policy.network
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    seen: dict[str, Tensor] = {}
    hook = made.optimizer.adamw.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    )
    step()
    hook.remove()
    assert seen.keys() == expected.keys()
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-3, atol=2e-6)


def weights(policy: Policy) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: tensor.clone() for name, tensor in policy.network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
