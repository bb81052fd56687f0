"""The divergences and weights against an implementation that we did not write: TRL's SDPO, GKD and distillation losses.

TRL sums to a scalar or averages where we keep one value a token, so most comparisons are of values and of gradients.
"""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from differentiable import Objective, objective
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trainer_objectives import Logits, logits, value_and_gradient

from trainer.head import Head
from trainer.objectives.divergence import Divergence, forward_kl, jsd, reverse_kl
from trainer.scores import Scores, loss_on_logits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL warns on import that its experimental part may change
    from trl.experimental.gkd.gkd_trainer import GKDTrainer
    from trl.experimental.sdpo.loss_utils import (
        compute_full_logit_self_distillation_loss,
        compute_topk_self_distillation_loss,
    )
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

# TRL's alpha, which it also calls beta: 0 is KL(teacher || student), 1 is KL(student || teacher), between is the JSD.
ALPHAS = st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.9])


def closed(alpha: float) -> Divergence:
    """The divergence that TRL calls by this alpha."""
    if alpha in (0.0, 1.0):
        return forward_kl if alpha == 0.0 else reverse_kl
    return partial(jsd, alpha=alpha)


def ours(alpha: float, k: int | None = None) -> Objective:
    return objective(closed(alpha), k)


def assert_same(a: Objective, b: Objective, case: Logits) -> None:
    student, teacher = case.tensors()
    for got, wanted in zip(
        value_and_gradient(a, student, teacher), value_and_gradient(b, student, teacher), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-10)


@given(logits(), ALPHAS)
@settings(deadline=None)
def test_each_divergence_over_the_vocabulary_is_trl_s(case: Logits, alpha: float) -> None:
    def theirs(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=alpha)

    assert_same(ours(alpha), theirs, case)


@given(logits(largest_vocabulary=30), ALPHAS, st.data())
@settings(deadline=None)
def test_each_divergence_over_the_top_k_and_the_tail_is_trl_s(case: Logits, alpha: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, case.student.shape[-1] - 1))

    def theirs(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return compute_topk_self_distillation_loss(
            student, teacher, distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=True
        )

    student, teacher = case.tensors()
    # TRL keeps the tail's probability above 1e-7, where ours goes on falling: such tokens are left out.
    support = student.topk(k).indices
    tails = torch.stack([1 - x.softmax(-1).gather(-1, support).sum(-1) for x in (student, teacher)])
    clear = (tails > 2e-7).all(0).numpy()
    for got, wanted in zip(
        value_and_gradient(ours(alpha, k), student, teacher), value_and_gradient(theirs, student, teacher), strict=True
    ):
        np.testing.assert_allclose(got[clear], wanted[clear], rtol=1e-6, atol=1e-9)


@given(logits(), ALPHAS, st.sampled_from([0.3, 0.7, 1.0, 2.0]))
@settings(deadline=None)
def test_the_mean_over_the_tokens_of_rows_of_different_lengths_is_gkd_s(
    case: Logits, alpha: float, temperature: float
) -> None:
    labels = torch.where(case.mask, 0, -100)
    gradients, values = [], []
    for who in ("ours", "gkd"):
        student, teacher = case.tensors()
        if who == "ours":
            loss = ours(alpha)(student / temperature, teacher / temperature).mean()
        else:
            loss = GKDTrainer.generalized_jsd_loss(
                case.padded(student),
                case.padded(teacher),
                labels,
                beta=alpha,
                temperature=temperature,
                num_items_in_batch=sum(case.lengths),
            )
        loss.backward()
        values.append(loss.item())
        gradients.append(student.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-7, abs=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-10)


@given(st.integers(1, 11), st.integers(1, 4), ALPHAS, st.sampled_from([0.5, 1.0, 2.0]))
@settings(deadline=None, max_examples=30)
def test_chunks_through_the_head_have_the_gradients_of_trl_s_hand_written_backward_pass(
    tokens: int, chunk: int, alpha: float, temperature: float
) -> None:
    """Its tiles keep running sums over the vocabulary, ours see the whole of it a few tokens at a time."""
    generator = torch.Generator().manual_seed(tokens)
    weights = torch.randn(17, 6, generator=generator)
    hidden, taught = (torch.randn(tokens, 6, generator=generator) for _ in range(2))

    def on_logits(part: slice, student: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
        assert teacher is not None
        log_p = student.log_softmax(-1)
        value, slope = closed(alpha)(log_p.exp(), log_p, teacher.log_softmax(-1))
        return value.sum() / tokens, slope / tokens

    results = []
    for who in ("ours", "trl"):
        h, linear = hidden.clone().requires_grad_(True), torch.nn.Linear(6, 17, bias=False)
        linear.weight.data = weights.clone()
        if who == "ours":
            head, ids = Head(linear, temperature, bfloat16=False), torch.zeros(tokens, dtype=torch.long)
            student, teacher = (Scores(head, x, ids, ids, 1, chunk) for x in (h, taught))
            loss = loss_on_logits(student, teacher, on_logits)
        else:
            w = linear.weight
            loss, _, _ = _chunked_divergence_loss(
                h[None], taught[None], w, w.detach(), torch.ones(1, tokens), beta=alpha, temperature=temperature
            )
        loss.backward()
        results.append((loss.detach(), h.grad, linear.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
