"""Whose weights read the teacher's prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shared.settings import TeacherSettings
from trainer.policy import Policy, Sequences
from trainer.teacher import Teacher

NewPolicy = Callable[..., Policy]
ROWS = Sequences([[3, 40, 4], [3, 50, 51, 4]], [[7, 8, 9], [10]])
ALL = slice(0, 4)


def move(policy: Policy) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(policy.network.parameters()):
            parameter.add_(0.01 * (index + 1))


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.score(ROWS).logits(ALL)


def test_a_live_teacher_is_the_student(new_policy: NewPolicy) -> None:
    student = new_policy()
    teacher = Teacher(TeacherSettings(weights="live"), student)
    move(student)
    assert torch.equal(teacher.score(ROWS).logits(ALL), logits(student))
    assert teacher.state_dict() == {}


def test_a_frozen_teacher_stays_the_initial_model(new_policy: NewPolicy) -> None:
    student = new_policy()
    teacher = Teacher(TeacherSettings(weights="frozen", rate=0.5), student)
    move(student)
    teacher.follow()
    assert torch.equal(teacher.score(ROWS).logits(ALL), logits(new_policy()))


def test_an_ema_teacher_is_the_moving_average_of_the_student_s_weights(new_policy: NewPolicy) -> None:
    student = new_policy()
    teacher = Teacher(TeacherSettings(weights="ema", rate=0.25), student)
    expected = [p.detach().double().clone() for p in student.network.parameters()]
    for _ in range(3):
        move(student)
        teacher.follow()
        expected = [
            0.75 * a + 0.25 * p.detach().double() for a, p in zip(expected, student.network.parameters(), strict=True)
        ]
    assert teacher.twin is not None
    for average, wanted in zip(teacher.twin.network.parameters(), expected, strict=True):
        torch.testing.assert_close(average.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_a_trust_region_teacher_interpolates_logits_between_initial_model_and_student(
    new_policy: NewPolicy, rate: float
) -> None:
    student = new_policy(temperature=0.7)
    teacher = Teacher(TeacherSettings(weights="trust_region", rate=rate), student)
    move(student)
    expected = (1 - rate) * logits(new_policy(temperature=0.7)) + rate * logits(student)
    scores = teacher.score(ROWS)
    torch.testing.assert_close(scores.logits(ALL), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.logits(slice(1, 3)), expected[1:3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", ["ema", "trust_region", "frozen"])
def test_a_restored_teacher_reads_as_the_one_that_was_saved(new_policy: NewPolicy, weights: str) -> None:
    student = new_policy()
    settings = TeacherSettings.model_validate({"weights": weights, "rate": 0.3})
    first = Teacher(settings, student)
    move(student)
    first.follow()
    second = Teacher(settings, student)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.score(ROWS).logits(ALL), first.score(ROWS).logits(ALL))
