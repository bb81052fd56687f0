"""The E-step on the network, its frequency, what it leaves out, and what the checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_algorithms import batches, same, tools, weights
from trainer_builders import group, said, trajectory

from shared.algorithm_settings import EStepSettings, VPDSettings
from shared.settings import TeacherPromptSettings
from trainer.algorithms.vpd import VPD
from trainer.batch import Batch, BatchBuilder
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]


def vpd(policy: Policy, *, learning_rate: float = 1e-3, **e_step: Any) -> VPD:
    return VPD(VPDSettings(e_step=EStepSettings(**e_step)), tools(policy, learning_rate=learning_rate))


def gradients_of_e_step(algorithm: VPD, batch: Batch) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    network = algorithm.policy.network
    hook = algorithm.e_optimizer.adamw.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    )
    algorithm.train_step(batch)
    hook.remove()
    return seen


def response_logprob(policy: Policy, prompt: list[int], response: list[int]) -> Tensor:
    logits = policy.network(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    logprobs = (logits / policy.temperature).log_softmax(-1)
    return logprobs[torch.arange(len(response)), torch.tensor(response)].sum()


def dense_loss(policy: Policy, batch: Batch, e: EStepSettings) -> Tensor:
    """L_E of the first step (delta starts at the class means of this batch), a row at a time."""
    rows = [r for r in batch.rows if r.e_prompt is not None]
    rewards = []
    for row in rows:
        assert row.e_prompt is not None
        log_q = response_logprob(policy, row.e_prompt.token_ids, row.response_ids)
        log_pi = response_logprob(policy, row.group.prompt_token_ids, row.response_ids).detach()
        rewards.append(e.beta * (log_q - log_pi) / (len(row.response_ids) if e.length_normalised else 1))
    classes = {
        outcome: [r for r, row in zip(rewards, rows, strict=True) if row.success is outcome]
        for outcome in (True, False)
    }
    delta = 0.5 * sum(float(torch.stack(c).detach().mean()) for c in classes.values() if c)
    loss = torch.zeros((), dtype=torch.float64)
    for reward, row in zip(rewards, rows, strict=True):
        log_ratio = float(reward.detach()) / e.beta * (len(row.response_ids) if e.length_normalised else 1)
        beyond = log_ratio > (e.trust_region_nats or 1e9) if row.success else log_ratio < -(e.trust_region_nats or 1e9)
        share = 1 / len(rows) if e.class_weights == "natural" else 1 / len(classes[bool(row.success)])
        z = reward - delta if row.success else delta - reward
        loss = loss - (0 if beyond else share) * torch.nn.functional.logsigmoid(z)
    return loss


CASES: list[dict[str, Any]] = [
    {},
    {"trust_region_nats": None, "class_weights": "balanced", "beta": 0.5},
    {"trust_region_nats": 0.05},
    {"length_normalised": True, "trust_region_nats": None},
    {"prior": "fixed"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
def test_the_e_step_s_gradient_is_that_of_the_formula_however_it_is_cut(
    new_policy: NewPolicy, case: dict[str, Any], learner: dict[str, int]
) -> None:
    policy = new_policy(**learner)
    (batch,) = batches(policy, 1)
    dense_loss(policy, batch, EStepSettings(**case)).backward()
    expected = {n: p.grad.clone() for n, p in policy.network.named_parameters() if p.grad is not None}
    policy.network.zero_grad()
    settings = VPDSettings(e_step=EStepSettings(**case))
    got = gradients_of_e_step(VPD(settings, tools(policy, max_grad_norm=1e6)), batch)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-3, atol=2e-6)


def test_the_trust_region_case_really_stops_rows(new_policy: NewPolicy) -> None:
    """Guards the case above: at 0.05 nats some rows push and some do not."""
    policy = new_policy()
    (batch,) = batches(policy, 1)
    share = vpd(policy, trust_region_nats=0.05).train_step(batch)["e_step/active_share"]
    assert 0 < share < 1


def test_the_prior_takes_no_gradient(new_policy: NewPolicy) -> None:
    policy = new_policy()
    algorithm = vpd(policy, prior="fixed")
    for batch in batches(policy, 3):
        algorithm.train_step(batch)
    initial = weights(new_policy())
    assert same(weights(algorithm.prior), initial)
    assert all(p.grad is None for p in algorithm.prior.network.parameters())
    assert not same(weights(policy), initial)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_an_e_step_comes_after_every_f_steps(new_policy: NewPolicy, every: int) -> None:
    policy = new_policy()
    algorithm = vpd(policy, every=every, buffer_steps=every)
    done = ["e_step/loss" in algorithm.train_step(batch) for batch in batches(policy, 6)]
    assert done == [(step + 1) % every == 0 for step in range(6)]


def test_the_buffer_holds_the_rows_of_the_last_steps(new_policy: NewPolicy) -> None:
    policy = new_policy()
    algorithm = vpd(policy, every=3, buffer_steps=2)
    made = batches(policy, 6)
    rows = [sum(row.e_prompt is not None for row in batch.rows) for batch in made]
    counted = [algorithm.train_step(batch).get("e_step/rows") for batch in made]
    assert counted == [None, None, rows[1] + rows[2], None, None, rows[4] + rows[5]]


def test_several_gradient_steps_move_the_teacher_further(new_policy: NewPolicy) -> None:
    moved = []
    for count in (1, 4):
        policy = new_policy()
        (batch,) = batches(policy, 1)
        algorithm = vpd(policy, gradient_steps=count, trust_region_nats=None, learning_rate_share=1.0)
        algorithm.m_step = lambda _: {"rows_trained": 0.0, "optimizer_steps": 0.0}  # type: ignore[assignment]
        algorithm.train_step(batch)
        metrics: dict[str, float] = {}
        algorithm.e_step(algorithm.buffer.rows(), 0, metrics)
        moved.append(metrics["e_step/margin"])
    assert moved[1] > moved[0]


def test_repeated_e_steps_separate_outcomes(new_policy: NewPolicy) -> None:
    policy = new_policy()
    algorithm = vpd(policy, learning_rate=3e-3, learning_rate_share=1.0, prior="fixed", trust_region_nats=None)
    algorithm.m_step = lambda _: {"rows_trained": 0.0, "optimizer_steps": 0.0}  # type: ignore[assignment]
    (batch,) = batches(policy, 1)
    margins = [algorithm.train_step(batch)["e_step/margin"] for _ in range(8)]
    assert margins[-1] > margins[0] + 0.1


def test_failures_alone_still_refine_the_teacher(new_policy: NewPolicy) -> None:
    policy = new_policy()
    builder = BatchBuilder(TeacherPromptSettings(), render=policy.render, max_context=1024, seed=0, shadow=frozenset())
    rows = [trajectory(i, feedback=[said(f"wrong {i}")], token_ids=[30 + i, 40]) for i in range(3)]
    metrics = vpd(policy).train_step(builder.build(0, [group(rows)]))
    assert metrics["e_step/failure_rows"] == 3
    assert "e_step/margin" not in metrics
    assert metrics["e_step/grad_norm"] > 0


@pytest.mark.parametrize("success", [None, False])
def test_where_no_source_says_anything_nothing_is_trained(new_policy: NewPolicy, success: bool | None) -> None:
    policy = new_policy()
    before = weights(policy)
    builder = BatchBuilder(TeacherPromptSettings(), render=policy.render, max_context=1024, seed=0, shadow=frozenset())
    algorithm = vpd(policy)
    for step in range(2):
        rows = [trajectory(i, success=success, feedback=[said(None, status="abstain")]) for i in range(4)]
        metrics = algorithm.train_step(builder.build(step, [group(rows, step=step)]))
        assert metrics["rows_trained"] == metrics["e_step/rows"] == 0
        assert metrics["rows_without_context"] == 4
    assert same(weights(policy), before)
    assert algorithm.delta.state_dict() == {}


def test_a_failed_source_is_no_negative_example(new_policy: NewPolicy) -> None:
    """A rollout that was not judged has no place in the E-step, even if a critic wrote about it."""
    policy = new_policy()
    builder = BatchBuilder(TeacherPromptSettings(), render=policy.render, max_context=1024, seed=0, shadow=frozenset())
    rows = [trajectory(0, success=None, feedback=[said(None, status="error"), said("hm", name="critic", kind="llm")])]
    assert vpd(policy).train_step(builder.build(0, [group(rows)]))["e_step/rows"] == 0


def test_an_own_optimizer_keeps_the_m_step_s_moments_apart(new_policy: NewPolicy) -> None:
    own, shared = (vpd(new_policy(), optimizer=which) for which in ("own", "shared"))
    assert own.e_optimizer is not own.m_step.optimizer
    assert shared.e_optimizer is shared.m_step.optimizer
    for algorithm in (own, shared):
        for batch in batches(algorithm.policy, 2):
            algorithm.train_step(batch)
    steps = [{int(s["step"]) for s in algorithm.m_step.optimizer.adamw.state.values()} for algorithm in (own, shared)]
    assert steps == [{2}, {4}]
