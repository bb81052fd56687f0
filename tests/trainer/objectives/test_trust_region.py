"""The trust region between the initial model and the student: interpolated logits are a geometric mixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from trainer_objectives import Array, kl, softmax

from shared.algorithm_settings import TeacherSettings
from trainer.policy import Policy
from trainer.scores import Sequences
from trainer.teacher import Teacher

NewPolicy = Callable[..., Policy]
ROWS = Sequences([[3, 40, 4], [3, 50, 51, 4]], [[7, 8, 9], [10]])
RATES = [0.0, 0.01, 0.3, 1.0]


def distributions(new_policy: NewPolicy, rate: float) -> tuple[Array, Array, Array]:
    """The initial model's, the moved student's and the teacher's next-token distributions, [tokens, vocabulary]."""
    student = new_policy(temperature=0.7)
    teacher = Teacher(TeacherSettings(weights="trust_region", rate=rate), student)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        scores = [new_policy(temperature=0.7).score(ROWS), student.score(ROWS), teacher.score(ROWS)]
        initial, moved, between = (softmax(s.logits(slice(0, 4)).double().numpy()) for s in scores)
    return initial, moved, between


@pytest.mark.parametrize("rate", RATES)
def test_the_teacher_is_the_normalised_product_of_powers(new_policy: NewPolicy, rate: float) -> None:
    initial, moved, teacher = distributions(new_policy, rate)
    product = initial ** (1 - rate) * moved**rate
    np.testing.assert_allclose(teacher, product / product.sum(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("rate", RATES)
def test_the_teacher_is_the_nearest_to_both_in_weighted_kl(new_policy: NewPolicy, rate: float) -> None:
    """Of all m, (1 - rate) KL(m || initial) + rate KL(m || student) is least there, and -log sum of the product."""
    initial, moved, teacher = distributions(new_policy, rate)

    def cost(m: Array) -> Array:
        return (1 - rate) * kl(m, initial) + rate * kl(m, moved)

    least = -np.log((initial ** (1 - rate) * moved**rate).sum(-1))
    np.testing.assert_allclose(cost(teacher), least, atol=1e-6)
    for share in (0.1, 0.9):
        assert (cost((1 - share) * teacher + share * np.roll(teacher, 1, axis=-1)) > least + 1e-4).all()
    assert kl(initial, moved).min() > 0.01  # the student did move, so that the two differ
