"""The M-step's gradient on the network against one dense computation over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_algorithms import assert_gradient, batches, tools

from shared.algorithm_settings import DistillSettings, GRPOTerm, TeacherSettings, WeightedGRPOTerm
from trainer.algorithms.base import Tools
from trainer.algorithms.m_step import MStep
from trainer.batch import Batch
from trainer.policy import Policy
from trainer.scores import Sequences
from trainer.teacher import Teacher

NewPolicy = Callable[..., Policy]


def distillation(made: Tools, settings: DistillSettings, teacher: TeacherSettings | None = None) -> MStep:
    """The M-step alone, of live weights unless said otherwise."""
    return MStep(made, settings, teacher=Teacher(teacher or TeacherSettings(), made.policy), distill=settings)


def dense_loss(policy: Policy, batch: Batch, settings: DistillSettings) -> Tensor:
    """L_M from full logits, a row at a time, in the formulas' own words."""
    rows = [r for r in batch.rows if r.m_prompt is not None and not (settings.outcomes == "failures" and r.success)]
    counted = rows if settings.masked_rows == "left_out" else batch.rows
    tokens = sum(len(r.response_ids) for r in counted)
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
        weighted = d if settings.importance_cap is None else ratio.clamp(max=settings.importance_cap) * d
        share = 1 / tokens if settings.aggregation == "token_mean" else 1 / (len(y) * len(counted))
        loss = loss + settings.weight * weighted.sum() * share
    return loss


CASES: list[dict[str, Any]] = [
    {},
    {"divergence": "forward_kl", "aggregation": "sequence_mean"},
    {"divergence": "jsd", "jsd_alpha": 0.3},
    {"importance_cap": 0.5},
    {"importance_cap": None, "weight": 0.3},
    {"masked_rows": "counted"},
    {"masked_rows": "counted", "aggregation": "sequence_mean"},
    {"top_k": 10_000},
    {"outcomes": "failures"},
    {"outcomes": "failures", "masked_rows": "counted"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    new_policy: NewPolicy, case: dict[str, Any], learner: dict[str, int]
) -> None:
    settings = DistillSettings(**case)
    policy = new_policy(temperature=0.8, **learner)
    made = tools(policy, max_grad_norm=1e6)
    (batch,) = batches(policy, 1, samples=6)
    m_step = distillation(made, settings)
    assert_gradient(made, dense_loss(policy, batch, settings), lambda: m_step(batch))


def test_a_success_is_not_distilled_where_only_failures_are(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1, samples=6)
    informed = [r for r in batch.rows if r.m_prompt is not None]
    failures = [r for r in informed if r.success is not True]
    assert 0 < len(failures) < len(informed)
    metrics = distillation(tools(policy), DistillSettings(outcomes="failures"))(batch)
    assert metrics["rows_trained"] == len(failures)


def kl_of_tokens(policy: Policy, batch: Batch) -> Iterator[list[float]]:
    """KL(student, teacher) at each token, by row with a context, from full logits."""
    with torch.no_grad():
        for row in batch.rows:
            if row.m_prompt is not None:
                s, t = (
                    policy.network(input_ids=torch.tensor([prompt + row.response_ids])).logits[0, len(prompt) - 1 : -1]
                    for prompt in (row.group.prompt_token_ids, row.m_prompt.token_ids)
                )
                yield (s.softmax(-1) * (s.log_softmax(-1) - t.log_softmax(-1))).sum(-1).tolist()


def test_the_step_reports_the_mean_divergence_of_a_token(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    settings = DistillSettings(importance_cap=1e9)
    metrics = distillation(tools(policy), settings)(batch)
    rows = [r for r in batch.rows if r.m_prompt is not None]
    kls = [kl for row in kl_of_tokens(new_policy(), batch) for kl in row]
    assert metrics["m_step/kl"] == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    assert metrics["rows_trained"] == len(rows)
    assert metrics["rows_without_context"] == len(batch.rows) - len(rows) > 0


def test_a_step_brings_the_student_nearer_to_a_frozen_teacher(new_policy: NewPolicy) -> None:
    policy = new_policy()
    m_step = distillation(tools(policy, learning_rate=3e-3), DistillSettings(), TeacherSettings(weights="frozen"))
    (batch,) = batches(policy, 1)
    kls = [m_step(batch)["m_step/kl"] for _ in range(6)]
    assert kls[-1] < 0.8 * kls[0]


def surrogate_loss(policy: Policy, batch: Batch, term: GRPOTerm) -> Tensor:
    """L_GRPO from full logits, a row at a time."""
    tokens = sum(len(r.response_ids) for r in batch.rows)
    loss = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        rewards = torch.tensor([t.reward for t in row.group.trajectories], dtype=torch.float64)
        advantage = (row.trajectory.reward - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6)
        prompt, y = row.group.prompt_token_ids, row.response_ids
        logits = policy.network(input_ids=torch.tensor([prompt + y])).logits[0, len(prompt) - 1 : -1].double()
        logprobs = logits.log_softmax(-1)[torch.arange(len(y)), torch.tensor(y)]
        ratio = (logprobs - torch.tensor(row.sampler_logprobs).double()).exp()
        clipped = ratio.clamp(1 - term.clip_low, 1 + term.clip_high)
        loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() / tokens
    return loss


@pytest.mark.parametrize("learner", [{}, {"microbatch_tokens": 64, "chunk_tokens": 16}], ids=["one", "micro"])
def test_two_terms_add_their_gradients_however_they_are_cut(new_policy: NewPolicy, learner: dict[str, int]) -> None:
    policy = new_policy(**learner)
    made = tools(policy, max_grad_norm=1e6)
    (batch,) = batches(policy, 1)
    settings, term = DistillSettings(weight=0.7), WeightedGRPOTerm(weight=2.0)
    m_step = MStep(made, settings, teacher=Teacher(TeacherSettings(), policy), distill=settings, grpo=term)
    loss = dense_loss(policy, batch, settings) + 2.0 * surrogate_loss(policy, batch, term)
    assert_gradient(made, loss, lambda: m_step(batch))


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_a_batch_takes_as_many_optimizer_steps_as_epochs_and_minibatches_say(
    new_policy: NewPolicy, epochs: int, minibatches: int
) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    settings = DistillSettings(epochs=epochs, minibatches=minibatches)
    made = tools(policy)
    metrics = distillation(made, settings)(batch)
    assert metrics["optimizer_steps"] == epochs * minibatches
    assert {int(s["step"]) for s in made.optimizer.adamw.state.values()} == {epochs * minibatches}


def test_minibatches_take_every_row_once_and_keep_siblings_together(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    m_step = distillation(tools(policy), DistillSettings())
    rows = m_step._rated(batch)
    from trainer.algorithms.m_step import _parts

    parts = list(_parts(rows, 2))
    assert [r for part in parts for r in part] == rows
    assert [len({r.row.group.group_id for r in part}) for part in parts] == [1, 1]


def test_kl_is_reported_by_quarter_of_the_response(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    metrics = distillation(tools(policy), DistillSettings(importance_cap=None))(batch)
    quarters: list[list[float]] = [[], [], [], []]
    for row in kl_of_tokens(new_policy(), batch):
        for position, kl in enumerate(row):
            quarters[position * 4 // len(row)].append(kl)
    for quarter, kls in enumerate(quarters, 1):
        assert metrics[f"m_step/kl_quarter_{quarter}"] == pytest.approx(sum(kls) / len(kls), rel=1e-3)


def test_the_teacher_s_lift_is_reported_by_outcome(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    rows = [r for r in batch.rows if r.m_prompt is not None and r.success is False]
    responses = [r.response_ids for r in rows]
    told = policy.response_logprobs(Sequences([r.m_prompt.token_ids for r in rows if r.m_prompt], responses))
    alone = policy.response_logprobs(Sequences([r.group.prompt_token_ids for r in rows], responses))
    metrics = distillation(tools(policy), DistillSettings())(batch)
    assert metrics["teacher/failure_lift_nats"] == pytest.approx(float((told - alone).mean()), rel=1e-3, abs=1e-5)
