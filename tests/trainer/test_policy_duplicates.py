"""Rows that are the same go through the network once, and count as often as they stand there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shared.protocol import Message
from trainer.policy import Policy
from trainer.scores import Sequences

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [5, 6, 7]]
RESPONSES = [[20, 21], [22, 23, 24], [20, 21], [25]]
WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5])


def _gradients(policy: Policy, backward: Callable[[], Any]) -> dict[str, torch.Tensor]:
    policy.network.zero_grad()
    backward()
    return {name: p.grad.clone() for name, p in policy.network.named_parameters() if p.grad is not None}


def _row_logprobs(policy: Policy, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    scores = policy.score(Sequences(prompts, responses))
    return scores.per_row(scores.logprobs())


def test_scores_and_gradients_are_those_of_rows_scored_one_by_one(new_policy: Callable[..., Policy]) -> None:
    policy = new_policy()
    together = _row_logprobs(policy, PROMPTS, RESPONSES)
    alone = torch.cat([_row_logprobs(policy, [p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    torch.testing.assert_close(together, alone)
    once = _gradients(policy, lambda: (together * WEIGHTS).sum().backward())
    each = _gradients(policy, lambda: (alone * WEIGHTS).sum().backward())
    torch.testing.assert_close(once, each, rtol=1e-4, atol=1e-5)


def test_the_network_sees_each_different_row_once(new_policy: Callable[..., Policy]) -> None:
    policy = new_policy()
    seen: list[torch.Size] = []
    network: Any = policy.network
    network.base_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    policy.score(Sequences(PROMPTS, RESPONSES))
    assert seen == [torch.Size([3, 5])]


def test_a_rendered_prompt_is_the_callers_to_change(new_policy: Callable[..., Policy]) -> None:
    policy = new_policy()
    messages = [Message(role="user", content="hello")]
    first = policy.render(messages)
    expected = list(first)
    first.append(0)
    assert policy.render(messages) == expected
