"""The M-step's gradient on the network against one dense computation over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_algorithms import batches, tools

from shared.settings import DistillSettings, TeacherSettings
from trainer.algorithms.base import Tools
from trainer.algorithms.distillation import Distillation
from trainer.batch import Batch
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]


def gradients_of_step(distillation: Distillation, made: Tools, batch: Batch) -> dict[str, Tensor]:
    """The gradients the optimizer saw in one step."""
    seen: dict[str, Tensor] = {}
    hook = made.optimizer.adamw.register_step_pre_hook(
        lambda *_: seen.update(
            {n: p.grad.clone() for n, p in made.policy.network.named_parameters() if p.grad is not None}
        )
    )
    distillation(batch)
    hook.remove()
    return seen


def dense_loss(policy: Policy, batch: Batch, settings: DistillSettings) -> Tensor:
    """L_M from full logits, a row at a time, in the formulas' own words."""
    rows = [r for r in batch.rows if r.m_prompt is not None]
    tokens = sum(len(r.response_ids) for r in rows)
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        assert row.m_prompt is not None
        y = torch.tensor(row.response_ids)
        student, teacher = (
            policy.network(input_ids=torch.tensor([prompt + row.response_ids])).logits[0, len(prompt) - 1 : -1].double()
            / policy.temperature
            for prompt in (row.group.prompt_token_ids, row.m_prompt.token_ids)
        )
        p, q = student.softmax(-1), teacher.softmax(-1).detach()
        if settings.divergence == "reverse_kl":
            d = (p * (p.log() - q.log())).sum(-1)
        elif settings.divergence == "forward_kl":
            d = (q * (q.log() - p.log())).sum(-1)
        else:
            a = settings.jsd_alpha
            m = (1 - a) * p + a * q
            d = (1 - a) * (p * (p.log() - m.log())).sum(-1) + a * (q * (q.log() - m.log())).sum(-1)
        ratio = (p.log()[torch.arange(len(y)), y].detach() - torch.tensor(row.sampler_logprobs).double()).exp()
        weighted = ratio.clamp(max=settings.importance_cap) * d
        share = 1 / tokens if settings.aggregation == "token_mean" else 1 / (len(y) * len(rows))
        loss = loss + weighted.sum() * share
    return loss


CASES: list[dict[str, Any]] = [
    {},
    {"divergence": "forward_kl", "aggregation": "sequence_mean"},
    {"divergence": "jsd", "jsd_alpha": 0.3},
    {"importance_cap": 0.5},
    {"top_k": 10_000},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    new_policy: NewPolicy, case: dict[str, Any], learner: dict[str, int]
) -> None:
    settings = DistillSettings(**case)
    policy = new_policy(temperature=0.8, **learner)
    made = tools(policy, max_grad_norm=1e6)
    (batch,) = batches(policy, 1)
    expected_loss = dense_loss(policy, batch, settings)
    expected_loss.backward()
    expected = {n: p.grad.clone() for n, p in policy.network.named_parameters() if p.grad is not None}
    policy.network.zero_grad()
    got = gradients_of_step(Distillation(settings, TeacherSettings(), made), made, batch)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-3, atol=2e-6)


def test_the_step_reports_the_mean_divergence_of_a_token(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    settings = DistillSettings(importance_cap=1e9)
    metrics = Distillation(settings, TeacherSettings(), tools(policy))(batch)
    rows = [r for r in batch.rows if r.m_prompt is not None]
    fresh = new_policy()
    total = 0.0
    with torch.no_grad():
        for row in rows:
            assert row.m_prompt is not None
            s, t = (
                fresh.network(input_ids=torch.tensor([prompt + row.response_ids])).logits[0, len(prompt) - 1 : -1]
                for prompt in (row.group.prompt_token_ids, row.m_prompt.token_ids)
            )
            total += float((s.softmax(-1) * (s.log_softmax(-1) - t.log_softmax(-1))).sum())
    assert metrics["m_step/kl"] == pytest.approx(total / metrics["m_step/tokens"], rel=1e-4)
    assert metrics["rows_trained"] == len(rows)
    assert metrics["rows_without_context"] == len(batch.rows) - len(rows) > 0


def test_no_gradient_reaches_the_teacher(new_policy: NewPolicy) -> None:
    """With live weights the head is shared by student and teacher: only the student's use of it may have a gradient."""
    policy = new_policy()
    distillation = Distillation(DistillSettings(), TeacherSettings(), tools(policy))
    (batch,) = batches(policy, 1)
    row = next(r for r in batch.rows if r.m_prompt is not None)
    assert row.m_prompt is not None
    from trainer.policy import Sequences

    student = policy.score(Sequences([row.group.prompt_token_ids], [row.response_ids]))
    teacher = distillation.teacher.score(Sequences([row.m_prompt.token_ids], [row.response_ids]))
    assert not teacher.hidden.requires_grad
    student.hidden = student.hidden.detach()
    student.head = lambda hidden: policy._head(hidden).detach()
    assert not distillation._divergence(student, teacher).requires_grad


def test_a_step_brings_the_student_nearer_to_a_frozen_teacher(new_policy: NewPolicy) -> None:
    policy = new_policy()
    distillation = Distillation(DistillSettings(), TeacherSettings(weights="frozen"), tools(policy, learning_rate=3e-3))
    (batch,) = batches(policy, 1)
    kls = [distillation(batch)["m_step/kl"] for _ in range(6)]
    assert kls[-1] < 0.8 * kls[0]
