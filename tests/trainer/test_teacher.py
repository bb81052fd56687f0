"""Whose weights read the teacher's prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from trainer_builders import group, trajectory

from shared.algorithm_settings import TeacherSettings
from trainer.batch import Batch, Row
from trainer.policy import Policy
from trainer.scores import Sequences
from trainer.teacher import RenewalGate, Teacher

NewPolicy = Callable[..., Policy]
ROWS = Sequences([[3, 40, 4], [3, 50, 51, 4]], [[7, 8, 9], [10]])
ALL = slice(0, 4)
STEP = Batch(0)


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
    teacher.follow(STEP)
    assert torch.equal(teacher.score(ROWS).logits(ALL), logits(new_policy()))


def test_an_ema_teacher_is_the_moving_average_of_the_student_s_weights(new_policy: NewPolicy) -> None:
    student = new_policy()
    teacher = Teacher(TeacherSettings(weights="ema", rate=0.25), student)
    expected = [p.detach().double().clone() for p in student.network.parameters()]
    for _ in range(3):
        move(student)
        teacher.follow(STEP)
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


@pytest.mark.parametrize("weights", ["ema", "trust_region", "frozen", "gated", "separate"])
def test_a_restored_teacher_reads_as_the_one_that_was_saved(new_policy: NewPolicy, weights: str) -> None:
    student = new_policy()
    settings = TeacherSettings.model_validate({"weights": weights, "rate": 0.3})
    first = Teacher(settings, student)
    move(student)
    first.follow(STEP)
    second = Teacher(settings, student)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.score(ROWS).logits(ALL), first.score(ROWS).logits(ALL))


def step(index: int, reward: float, length: int) -> Batch:
    """A training step of ten rollouts with this mean reward, all of one length."""
    rows = [trajectory(i, success=i < round(10 * reward), token_ids=[9] * length) for i in range(10)]
    return Batch(index, [Row(group(rows), t) for t in rows])


def renewals(rewards: list[float], lengths: list[int]) -> list[bool]:
    gate = RenewalGate(TeacherSettings(weights="gated", gate_steps=2, gate_gain=0.19, gate_length=1.5))
    return [gate.opens(step(i, r, n)) for i, (r, n) in enumerate(zip(rewards, lengths, strict=True))]


def test_a_gated_teacher_is_renewed_only_when_the_mean_reward_has_risen() -> None:
    assert renewals([0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.6], [5] * 7) == [False, False, False, False, True, False, False]


def test_a_gated_teacher_is_not_renewed_while_long_answers_grow() -> None:
    assert renewals([0.1, 0.5, 0.5, 0.5, 0.5], [4, 4, 7, 7, 6]) == [False, True, False, False, False]
    assert renewals([0.1, 0.5, 0.9, 0.9, 0.9], [4, 7, 7, 6, 6]) == [False, False, False, False, True]


def test_a_renewed_teacher_reads_as_the_student_does_and_then_stands_still(new_policy: NewPolicy) -> None:
    student = new_policy()
    teacher = Teacher(TeacherSettings(weights="gated", gate_steps=1, gate_gain=0.3), student)
    move(student)
    teacher.follow(step(0, 0.1, 4))
    assert torch.equal(teacher.score(ROWS).logits(ALL), logits(new_policy()))
    teacher.follow(step(1, 0.5, 4))
    renewed = logits(student)
    move(student)
    teacher.follow(step(2, 0.6, 4))
    assert torch.equal(teacher.score(ROWS).logits(ALL), renewed)


def test_steps_without_an_outcome_do_not_move_the_gate(new_policy: NewPolicy) -> None:
    gate = RenewalGate(TeacherSettings(weights="gated", gate_steps=1, gate_gain=0.0))
    assert not gate.opens(Batch(0, [Row(group([trajectory(0, success=None)]), trajectory(0, success=None))]))
    assert gate.state_dict() == {"window": [], "reward": None, "length": 0.0}
