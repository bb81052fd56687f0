"""The diagnostics of the student's and the E-step, against the same figures computed a row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from trainer_algorithms import batches, tools

from shared.algorithm_settings import DistillSettings, GRPOTerm, TeacherSettings
from trainer.algorithms.e_step import diagnostics
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch
from trainer.policy import Policy
from trainer.teacher import Teacher

NewPolicy = Callable[..., Policy]


def distribution_of_rows(policy: Policy, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Log-probabilities [tokens, vocabulary] of the student, of the response's tokens, and the sampler's; each row."""
    with torch.no_grad():
        for row in batch.rows:
            prompt, y = row.group.prompt_token_ids, row.response_ids
            logits = policy.network(input_ids=torch.tensor([prompt + y])).logits[0, len(prompt) - 1 : -1].double()
            log_p = logits.log_softmax(-1)
            yield log_p, log_p[torch.arange(len(y)), torch.tensor(y)], torch.tensor(row.sampler_logprobs).double()


def test_entropy_length_and_distance_to_the_sampler_are_means_over_all_trained_tokens(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    rows = list(distribution_of_rows(new_policy(), batch))
    metrics = MStep(tools(policy), DistillSettings(), grpo=GRPOTerm())(batch)
    assert metrics["rows_trained"] == len(batch.rows)
    entropy = torch.cat([-(log_p.exp() * log_p).sum(-1) for log_p, _, _ in rows])
    drift = torch.cat([sampled - chosen for _, chosen, sampled in rows])
    assert metrics["m_step/entropy"] == pytest.approx(float(entropy.mean()), rel=1e-4)
    assert metrics["m_step/kl_to_sampler"] == pytest.approx(float(drift.mean()), rel=1e-4)
    assert metrics["m_step/length"] == pytest.approx(sum(len(y) for _, y, _ in rows) / len(rows))


def test_the_clipped_share_counts_tokens_whose_ratio_has_left_the_clip_on_their_advantage_s_side(
    new_policy: NewPolicy,
) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    outside = []
    for row, (_, chosen, sampled) in zip(batch.rows, distribution_of_rows(new_policy(), batch), strict=True):
        ratio = (chosen - sampled).exp()
        outside += (ratio > 1.28 if row.success else ratio < 0.8).tolist()
    metrics = MStep(tools(policy), DistillSettings(), grpo=GRPOTerm())(batch)
    assert 0 < metrics["m_step/clipped_share"] < 1
    assert metrics["m_step/clipped_share"] == pytest.approx(sum(outside) / len(outside))


def test_importance_weights_are_reported_with_the_share_at_the_cap(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    ratios = torch.cat(
        [
            (chosen - sampled).exp()
            for row, (_, chosen, sampled) in zip(batch.rows, distribution_of_rows(new_policy(), batch), strict=True)
            if row.m_prompt is not None
        ]
    )
    cap = float(ratios.median()) + 0.01
    settings = DistillSettings(importance_cap=cap)
    metrics = MStep(tools(policy), settings, teacher=Teacher(TeacherSettings(), policy), distill=settings)(batch)
    assert 0 < metrics["m_step/importance_capped"] < 1
    assert metrics["m_step/importance_capped"] == pytest.approx(float((ratios >= cap).double().mean()))
    assert metrics["m_step/importance_mean"] == pytest.approx(float(ratios.clamp(max=cap).mean()), rel=1e-4)


def test_the_implicit_reward_is_reported_by_outcome_with_quantiles_margin_and_saturation() -> None:
    reward = torch.tensor([1.0, 3.0, 8.0, -7.0, -1.0])
    success = torch.tensor([True, True, True, False, False])
    found = diagnostics(10 * reward, reward, success, 1.0, torch.tensor([0.2, 0.0, 0.2, 0.2, 0.0]))
    assert found["e_step/success_reward"] == 4.0 and found["e_step/failure_reward"] == -4.0
    assert found["e_step/margin"] == 8.0 and found["e_step/failure_lift_nats"] == -40.0
    assert found["e_step/success_reward_p50"] == 3.0
    assert found["e_step/success_reward_p90"] == pytest.approx(7.0)
    assert found["e_step/failure_reward_p10"] == pytest.approx(-6.4)
    assert found["e_step/saturated_share"] == pytest.approx(2 / 5)
    assert found["e_step/active_share"] == pytest.approx(3 / 5)
