"""The diagnostics of the student's and the E-step, against the same figures computed a row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from trainer_algorithms import batches, tools
from trainer_builders import group, said, trajectory

from shared.algorithm_settings import DistillSettings, GRPOSettings, GRPOTerm, TeacherSettings
from shared.settings import TeacherPromptSettings
from trainer.algorithms.e_step import diagnostics
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch, BatchBuilder
from trainer.policy import Policy
from trainer.scores import Sequences
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


def test_the_log_ratio_of_the_e_step_is_reported_by_source_and_outcome() -> None:
    ratio, success = torch.tensor([1.0, 3.0, -2.0, -4.0]), torch.tensor([True, True, False, False])
    sources = [("code",), ("code", "ann"), ("code",), ()]
    found = diagnostics(ratio, ratio, success, 0.0, torch.ones(4), sources)
    assert {name: value for name, value in found.items() if name.startswith("source/")} == {
        "source/ann/e_step_success_lift_nats": 3.0,
        "source/code/e_step_success_lift_nats": 2.0,
        "source/code/e_step_failure_lift_nats": -2.0,
    }


def with_sources(policy: Policy) -> Batch:
    """Successes and failures whose prompts hold text of one source, of two, of a person, or of none."""
    texts = [[said("no")], [said("no"), said("try b", name="critic")], [], [said("b", name="ann", kind="human")]]
    rows = [
        trajectory(i, success=i == 3, feedback=given, token_ids=range(20 + i, 24 + 2 * i))
        for i, given in enumerate(texts)
    ]
    alone = TeacherPromptSettings(demonstration=False)
    builder = BatchBuilder(alone, render=policy.render, max_context=1000, seed=0, shadow=frozenset())
    return builder.build(0, [group(rows)])


def distillation(policy: Policy, **passes: int) -> MStep:
    settings = DistillSettings(**passes)
    return MStep(tools(policy), settings, teacher=Teacher(TeacherSettings(), policy), distill=settings)


def expected_lifts(policy: Policy, batch: Batch) -> dict[str, list[float]]:
    """log q - log pi of each token of the rows with a teacher's prompt, a row at a time."""
    lifts = {}
    for row in batch.rows:
        if row.m_prompt is not None:
            with torch.no_grad():
                q, pi = (
                    policy.score(Sequences([prompt], [row.response_ids])).logprobs()
                    for prompt in (row.m_prompt.token_ids, row.group.prompt_token_ids)
                )
            lifts[row.trajectory.trajectory_id] = (q - pi).tolist()
    return lifts


@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
@pytest.mark.parametrize("passes", [{}, {"epochs": 2, "minibatches": 2}], ids=["one pass", "passes"])
def test_lifts_are_those_of_each_token_as_it_was_first_scored(
    new_policy: NewPolicy, learner: dict[str, int], passes: dict[str, int]
) -> None:
    policy = new_policy(**learner)
    batch = with_sources(policy)
    if passes:
        # What a teacher scores is in the first of the two parts, so that no update lies before it.
        batch = Batch(0, batch.rows[:2] + batch.rows[2:3] * 2)
    expected = expected_lifts(new_policy(), batch)
    step = distillation(policy, **passes)
    step(batch)
    assert step.token_lifts.keys() == expected.keys() and len(expected) in (2, 3)
    for row, lifts in expected.items():
        assert step.token_lifts[row] == pytest.approx(lifts, abs=1e-4)


def test_a_source_s_lift_is_the_mean_over_the_rows_whose_prompt_held_its_text_by_outcome(new_policy: NewPolicy) -> None:
    policy = new_policy()
    batch = with_sources(policy)
    code, both, ann = (sum(lifts) for lifts in expected_lifts(new_policy(), batch).values())
    metrics = distillation(policy)(batch)
    found = {name: value for name, value in metrics.items() if name.startswith("source/")}
    assert found == {
        "source/code/failure_lift_nats": pytest.approx((code + both) / 2, abs=1e-3),
        "source/critic/failure_lift_nats": pytest.approx(both, abs=1e-3),
        "source/ann/success_lift_nats": pytest.approx(ann, abs=1e-3),
    }
    assert metrics["teacher/failure_lift_nats"] == found["source/code/failure_lift_nats"]


def test_without_a_teacher_there_are_no_lifts(new_policy: NewPolicy) -> None:
    policy = new_policy()
    step = MStep(tools(policy), GRPOSettings(), grpo=GRPOTerm())
    metrics = step(with_sources(policy))
    assert step.token_lifts == {} and not any("lift" in name for name in metrics)
