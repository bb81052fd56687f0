"""AdamW's schedule, accumulated gradients, and updates that are skipped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_algorithms import same, tools, weights

from shared.settings import OptimizerSettings
from trainer.optimisation import Optimizer
from trainer.policy import Policy
from trainer.scores import Sequences

NewPolicy = Callable[..., Policy]
ROWS = Sequences([[3, 40, 4], [3, 50, 4]], [[7, 8], [9]])


def schedule(warmup: int, final: float, steps: int) -> list[float]:
    optimizer = object.__new__(Optimizer)
    optimizer.settings = OptimizerSettings(warmup_steps=warmup, final_share=final)
    optimizer.peak, optimizer.total_steps = 1.0, steps
    return [optimizer.learning_rate(step) for step in range(steps)]


def test_the_rate_rises_over_the_warm_up_and_falls_to_its_final_share() -> None:
    rates = schedule(4, 0.1, 13)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([1 - 0.9 * i / 8 for i in range(9)])


@given(st.integers(0, 20), st.floats(0, 1), st.integers(1, 40))
def test_the_rate_is_positive_up_to_the_last_steps_and_never_above_the_peak(warmup: int, final: float, n: int) -> None:
    rates = schedule(warmup, final, n)
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(rate > 0 for rate in rates[:-1])
    if n > warmup + 1:
        assert rates[-1] == pytest.approx(final)


def test_a_final_share_of_1_keeps_the_rate_constant() -> None:
    assert schedule(0, 1.0, 5) == [1.0] * 5


def test_gradients_of_several_passes_make_one_update_at_the_steps_rate(new_policy: NewPolicy) -> None:
    once, twice = new_policy(), new_policy()
    for policy, spans in ((once, [slice(0, 2)]), (twice, [slice(0, 1), slice(1, 2)])):
        optimizer = tools(policy).optimizer
        metrics: dict[str, float] = {}
        with optimizer.gradient_step(3, metrics, "m_step", share=0.5):
            for span in spans:
                policy.score(ROWS[span]).logprobs().sum().backward()
        assert metrics["m_step/skipped_updates"] == 0 and metrics["m_step/grad_norm"] > 1
        assert optimizer.adamw.param_groups[0]["lr"] == optimizer.learning_rate(3, share=0.5)
        assert all(p.grad is None for p in policy.network.parameters())
    for a, b in zip(once.network.parameters(), twice.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_gradients_are_scaled_to_the_norm(new_policy: NewPolicy) -> None:
    policy = new_policy()
    optimizer = tools(policy, max_grad_norm=0.5).optimizer
    norms: list[float] = []
    optimizer.adamw.register_step_pre_hook(
        lambda *_: norms.append(
            float(torch.stack([p.grad.norm() for p in policy.network.parameters() if p.grad is not None]).norm())
        )
    )
    with optimizer.gradient_step(0, {}, "m_step"):
        policy.score(ROWS).logprobs().sum().backward()
    assert norms == [pytest.approx(0.5, rel=1e-4)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(new_policy: NewPolicy, bad: float) -> None:
    policy = new_policy()
    optimizer = tools(policy).optimizer
    before = weights(policy)
    metrics: dict[str, float] = {}
    with optimizer.gradient_step(0, metrics, "e_step"):
        (policy.score(ROWS).logprobs().sum() * bad).backward()
    assert metrics["e_step/skipped_updates"] == 1
    assert same(weights(policy), before)
    assert not optimizer.adamw.state


def test_an_error_inside_changes_nothing(new_policy: NewPolicy) -> None:
    policy = new_policy()
    before = weights(policy)
    with pytest.raises(RuntimeError, match="broken"), tools(policy).optimizer.gradient_step(0, {}, "m_step"):
        policy.score(ROWS).logprobs().sum().backward()
        raise RuntimeError("broken")
    assert same(weights(policy), before)
