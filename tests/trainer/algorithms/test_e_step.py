"""What the E-step stands on: its buffer, its gate, and a teacher with weights of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from trainer_algorithms import batches, same, tools, weights

from shared.algorithm_settings import DistillSettings, EStepSettings, TeacherSettings, VPDGRPOSettings, VPDSettings
from trainer.algorithms.e_step import AccuracyGate, OutcomeBuffer
from trainer.algorithms.vpd import VPD
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]


@pytest.mark.parametrize(
    ("outcomes", "wanted"), [("both", {True, False}), ("successes", {True}), ("failures", {False})]
)
def test_the_buffer_keeps_the_wanted_outcomes(new_policy: NewPolicy, outcomes: str, wanted: set[bool]) -> None:
    buffer = OutcomeBuffer(2)
    for batch in batches(new_policy(), 3):
        buffer.add(batch, outcomes)  # type: ignore[arg-type]
    assert {row.success for row in buffer.rows()} == wanted


def test_the_gate_closes_when_the_teacher_falls_and_opens_when_it_is_back() -> None:
    gate = AccuracyGate(0.2)
    opened = []
    for accuracy in (0.3, 0.6, 0.5, 0.39, 0.45, 0.7, 0.45):
        gate.observe(accuracy)
        opened.append(gate.open)
    assert opened == [True, True, True, False, True, True, False]


def test_without_a_drop_the_gate_never_closes() -> None:
    gate = AccuracyGate(None)
    for accuracy in (1.0, 0.0):
        gate.observe(accuracy)
    assert gate.open


def test_no_e_step_is_done_while_the_gate_is_closed(new_policy: NewPolicy) -> None:
    policy = new_policy()
    algorithm = VPD(VPDSettings(e_step=EStepSettings(gate_drop=0.1)), tools(policy))
    first, second, third = batches(policy, 3)
    done = []
    for batch, accuracy in ((first, 0.9), (second, 0.5), (third, 0.9)):
        algorithm.observe_teacher(accuracy)
        done.append("e_step/loss" in algorithm.train_step(batch))
    assert done == [True, False, True]


def test_an_e_step_on_separate_weights_leaves_the_student_alone(new_policy: NewPolicy) -> None:
    policy = new_policy()
    settings = VPDSettings(teacher=TeacherSettings(weights="separate"), m_step=DistillSettings(weight=0))
    algorithm = VPD(settings, tools(policy))
    for batch in batches(policy, 2):
        algorithm.train_step(batch)
    assert same(weights(policy), weights(new_policy()))
    assert algorithm.teacher.twin is not None
    assert not same(weights(algorithm.teacher.twin), weights(new_policy()))


def test_with_a_shared_network_the_e_step_alone_moves_the_student(new_policy: NewPolicy) -> None:
    policy = new_policy()
    algorithm = VPD(VPDSettings(m_step=DistillSettings(weight=0)), tools(policy))
    (batch,) = batches(policy, 1)
    metrics = algorithm.train_step(batch)
    assert metrics["rows_trained"] == 0 and metrics["optimizer_steps"] == 1
    assert not same(weights(policy), weights(new_policy()))


def test_a_grpo_term_takes_no_further_optimizer_step(new_policy: NewPolicy) -> None:
    taken = []
    for settings in (VPDSettings(), VPDGRPOSettings()):
        policy = new_policy()
        (batch,) = batches(policy, 1)
        taken.append(VPD(settings, tools(policy)).train_step(batch)["optimizer_steps"])
    assert taken == [2, 2]
