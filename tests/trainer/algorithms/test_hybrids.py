"""GRPO with a teacher in its advantages, against the formulas, token by token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from trainer_algorithms import assert_gradient, batches, tools, weights

from shared.algorithm_settings import AlgorithmSettings, ReshapedGRPOSettings, ReweightedGRPOSettings, TeacherSettings
from trainer.algorithms import make
from trainer.batch import Batch
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]
FROZEN = TeacherSettings(weights="frozen")


def logprobs(policy: Policy, prompt: list[int], y: list[int]) -> Tensor:
    logits = policy.network(input_ids=torch.tensor([prompt + y])).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1)[torch.arange(len(y)), torch.tensor(y)]


def dense_loss(policy: Policy, batch: Batch, advantage_of: Callable[[float, Tensor], Tensor]) -> Tensor:
    """The clipped surrogate with the advantage of each token made from the row's and the teacher's log-ratio."""
    tokens = sum(len(row.response_ids) for row in batch.rows)
    loss = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        rewards = torch.tensor([t.reward for t in row.group.trajectories], dtype=torch.float64)
        advantage = float((row.trajectory.reward - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6))
        log_pi = logprobs(policy, row.group.prompt_token_ids, row.response_ids)
        log_ratio = torch.zeros_like(log_pi)
        if row.m_prompt is not None:
            log_ratio = (logprobs(policy, row.m_prompt.token_ids, row.response_ids) - log_pi).detach()
        shaped = advantage_of(advantage, log_ratio)
        ratio = (log_pi - torch.tensor(row.sampler_logprobs).double()).exp()
        loss = loss - torch.minimum(ratio * shaped, ratio.clamp(0.8, 1.28) * shaped).sum() / tokens
    return loss


def reshape(advantage: float, log_ratio: Tensor) -> Tensor:
    return advantage + 0.5 * log_ratio


def reweight(advantage: float, log_ratio: Tensor) -> Tensor:
    power = log_ratio if advantage > 0 else -log_ratio
    return advantage * (0.4 + 0.6 * power.exp().clamp(0.7, 1.3))


@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
@pytest.mark.parametrize(
    ("settings", "advantage_of"),
    [
        (ReshapedGRPOSettings(teacher=FROZEN, ratio_weight=0.5), reshape),
        (ReweightedGRPOSettings(teacher=FROZEN, ratio_share=0.6, ratio_clip=0.3, decay_steps=None), reweight),
    ],
    ids=["reshaped", "reweighted"],
)
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    new_policy: NewPolicy,
    settings: ReshapedGRPOSettings | ReweightedGRPOSettings,
    advantage_of: Callable[[float, Tensor], Tensor],
    learner: dict[str, int],
) -> None:
    policy = new_policy(**learner)
    made = tools(policy, max_grad_norm=1e6)
    (batch,) = batches(policy, 1)
    algorithm = make(settings, made)
    assert_gradient(made, dense_loss(policy, batch, advantage_of), lambda: algorithm.train_step(batch))


def test_reweighting_decays_to_plain_grpo(new_policy: NewPolicy) -> None:
    after = []
    for case in ({"name": "grpo"}, {"name": "reweighted_grpo", "decay_steps": 3, "teacher": {"weights": "frozen"}}):
        policy = new_policy()
        algorithm = make(TypeAdapter(AlgorithmSettings).validate_python(case), tools(policy))
        algorithm.train_step(batches(policy, 4)[3])
        after.append(weights(policy))
    plain, decayed = after
    for name, tensor in plain.items():
        torch.testing.assert_close(decayed[name], tensor, rtol=1e-4, atol=1e-6)
