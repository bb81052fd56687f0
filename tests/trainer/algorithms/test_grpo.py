"""GRPO's gradient on the network against the formula, and which rows it leaves out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from trainer_algorithms import assert_gradient, batches, same, tools, weights
from trainer_builders import group, trajectory

from shared.algorithm_settings import GRPOSettings
from shared.settings import TeacherPromptSettings
from trainer.algorithms.grpo import GRPO
from trainer.batch import Batch, BatchBuilder
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]


def dense_loss(policy: Policy, batch: Batch, settings: GRPOSettings) -> Tensor:
    """-mean over the tokens of all judged rows of min(rho A, clip(rho) A), a row at a time."""
    tokens = sum(len(row.response_ids) for row in batch.rows)
    loss = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        rewards = torch.tensor([t.reward for t in row.group.trajectories], dtype=torch.float64)
        advantage = row.trajectory.reward - rewards.mean()
        if settings.normalise_std:
            advantage = advantage / (rewards.std(unbiased=False) + 1e-6)
        prompt, y = row.group.prompt_token_ids, row.response_ids
        logits = policy.network(input_ids=torch.tensor([prompt + y])).logits[0, len(prompt) - 1 : -1].double()
        logprobs = (logits / policy.temperature).log_softmax(-1)[torch.arange(len(y)), torch.tensor(y)]
        ratio = (logprobs - torch.tensor(row.sampler_logprobs).double()).exp()
        clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() / tokens
    return loss


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    new_policy: NewPolicy, normalise: bool, learner: dict[str, int]
) -> None:
    policy = new_policy(temperature=0.8, **learner)
    settings = GRPOSettings(normalise_std=normalise)
    made = tools(policy, max_grad_norm=1e6)
    (batch,) = batches(policy, 1)
    algorithm = GRPO(settings, made)
    assert_gradient(made, dense_loss(policy, batch, settings), lambda: algorithm.train_step(batch))


def batch_of(policy: Policy, successes: list[bool | None]) -> Batch:
    builder = BatchBuilder(TeacherPromptSettings(), render=policy.render, max_context=1024, seed=0, shadow=frozenset())
    rows = [trajectory(i, success=s, token_ids=[20 + i, 30]) for i, s in enumerate(successes)]
    return builder.build(0, [group(rows)])


@pytest.mark.parametrize("successes", [[False] * 3, [True] * 3, [None] * 3, [True, None, None]])
def test_a_group_without_contrast_trains_nothing(new_policy: NewPolicy, successes: list[bool | None]) -> None:
    policy = new_policy()
    before = weights(policy)
    metrics = GRPO(GRPOSettings(), tools(policy)).train_step(batch_of(policy, successes))
    assert metrics["rows_trained"] == 0
    assert same(weights(policy), before)


def test_a_rollout_without_an_outcome_is_no_failure(new_policy: NewPolicy) -> None:
    trained = []
    for successes in ([True, False, None], [True, False, False]):
        policy = new_policy()
        metrics = GRPO(GRPOSettings(), tools(policy)).train_step(batch_of(policy, successes))
        trained.append(metrics["rows_trained"])
    assert trained == [2, 3]


def test_success_becomes_likelier_and_failure_less_likely(new_policy: NewPolicy) -> None:
    from trainer.scores import Sequences

    policy = new_policy()
    batch = batch_of(policy, [True, False])
    rows = Sequences([r.group.prompt_token_ids for r in batch.rows], [r.response_ids for r in batch.rows])
    before = policy.response_logprobs(rows)
    algorithm = GRPO(GRPOSettings(clip_high=100.0, clip_low=0.999), tools(policy, learning_rate=1e-3))
    algorithm.train_step(batch)
    after = policy.response_logprobs(rows)
    assert after[0] - before[0] > after[1] - before[1]
