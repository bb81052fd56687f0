"""A whole M-step on a network against a loss put together from TRL's parts; SDPO's released recipes are among them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainer_algorithms import batches, tools

from shared.algorithm_settings import DistillSettings, SDPOSettings, TeacherSettings
from shared.load_settings import load_settings
from trainer.algorithms.sdpo import SDPO
from trainer.batch import Batch, Row
from trainer.policy import Policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL warns on import that its experimental part may change
    from trl.experimental.sdpo.loss_utils import (
        apply_importance_sampling_clipping,
        compute_full_logit_self_distillation_loss,
        compute_topk_self_distillation_loss,
    )
    from trl.trainer.utils import selective_log_softmax

NewPolicy = Callable[..., Policy]
RECIPES = Path(__file__).parents[3] / "recipes"


def released(name: str) -> DistillSettings:
    """The M-step of a recipe, in one optimizer step."""
    algorithm = load_settings((RECIPES / name,), (), {}).algorithm
    assert isinstance(algorithm, SDPOSettings)
    return algorithm.m_step.model_copy(update={"minibatches": 1})


CASES = {
    "SDPO's outcomes": released("sdpo_released.toml"),
    "SDPO's rich feedback": released("sdpo_released_feedback.toml"),
    "default": DistillSettings(),
    "token mean, all rows": DistillSettings(masked_rows="counted"),
    "sequence mean": DistillSettings(aggregation="sequence_mean"),
    "forward KL, low cap": DistillSettings(divergence="forward_kl", importance_cap=0.5),
    "JSD, 7 tokens": DistillSettings(divergence="jsd", jsd_alpha=0.2, top_k=7),
}


def trl_loss(policy: Policy, batch: Batch, settings: DistillSettings) -> Tensor:
    """Each row's token losses by TRL, and the mean that the settings name."""
    alpha = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": settings.jsd_alpha}[settings.divergence]
    counted = [row for row in batch.rows if row.m_prompt is not None or settings.masked_rows == "counted"]
    tokens = sum(len(row.response_ids) for row in counted)
    loss = torch.zeros(())
    for row in counted:
        if row.m_prompt is None:
            continue
        losses = token_losses(policy, row, row.m_prompt.token_ids, alpha, settings)
        loss = loss + (
            losses.mean() / len(counted) if settings.aggregation == "sequence_mean" else losses.sum() / tokens
        )
    return loss


def token_losses(
    policy: Policy, row: Row, teacher_prompt: list[int], alpha: float, settings: DistillSettings
) -> Tensor:
    student = response_logits(policy, row.group.prompt_token_ids, row.response_ids)
    with torch.no_grad():
        teacher = response_logits(policy, teacher_prompt, row.response_ids)
    if settings.top_k is None:
        losses = compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=alpha)
    else:
        losses = compute_topk_self_distillation_loss(
            student,
            teacher,
            distillation_topk=settings.top_k,
            distillation_alpha=alpha,
            distillation_add_tail=True,
        )
    log_pi = selective_log_softmax(student, torch.tensor(row.response_ids))
    cap = settings.importance_cap
    assert cap is not None
    clipped: Tensor = apply_importance_sampling_clipping(losses, log_pi, torch.tensor(row.sampler_logprobs), cap)
    return clipped


def response_logits(policy: Policy, prompt: list[int], response: list[int]) -> Tensor:
    """Float32 [tokens, vocabulary], at the positions that predict the response."""
    logits: Tensor = policy.network(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits / policy.temperature


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_a_step_is_that_of_trl_s_loss(new_policy: NewPolicy, case: str) -> None:
    settings = CASES[case]
    policy = new_policy(temperature=0.8)
    (batch,) = batches(policy, 1)
    assert any(row.m_prompt is None for row in batch.rows)
    trl_loss(policy, batch, settings).backward()
    expected = {n: p.grad.clone() for n, p in policy.network.named_parameters() if p.grad is not None}
    policy.network.zero_grad()

    made = tools(policy, max_grad_norm=1e6)
    got: dict[str, Tensor] = {}
    made.optimizer.adamw.register_step_pre_hook(
        lambda *_: got.update({n: p.grad.clone() for n, p in policy.network.named_parameters() if p.grad is not None})
    )
    SDPO(SDPOSettings(m_step=settings, teacher=TeacherSettings(weights="ema")), made).train_step(batch)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-3, atol=2e-6)
