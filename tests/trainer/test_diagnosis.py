"""The implicit reward's margin against the student and against the initial model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from trainer_algorithms import batches, tools

from shared.algorithm_settings import GRPOSettings
from trainer.algorithms.grpo import GRPO
from trainer.diagnosis import Diagnosis
from trainer.policy import Policy
from trainer.scores import Sequences

NewPolicy = Callable[..., Policy]


def test_before_any_step_student_and_initial_model_are_the_same_prior(new_policy: NewPolicy) -> None:
    policy = new_policy()
    (batch,) = batches(policy, 1)
    found = Diagnosis(policy, 1)(batch)
    assert found["diagnosis/student_margin_nats"] == found["diagnosis/initial_margin_nats"]


def test_the_margin_is_that_of_the_network_s_own_log_ratios(new_policy: NewPolicy) -> None:
    policy = new_policy()
    diagnosis = Diagnosis(policy, 1)
    first, second = batches(policy, 2)
    GRPO(GRPOSettings(), tools(policy, learning_rate=1e-2)).train_step(first)
    found = diagnosis(second)
    initial = new_policy()
    ratios: dict[tuple[str, bool], list[float]] = {}
    for row in second.rows:
        if row.e_prompt is not None and row.success is not None:
            told = policy.response_logprobs(Sequences([row.e_prompt.token_ids], [row.response_ids]))
            alone = Sequences([row.group.prompt_token_ids], [row.response_ids])
            for name, prior in (("student", policy), ("initial", initial)):
                ratios.setdefault((name, row.success), []).append(float(told - prior.response_logprobs(alone)))
    for name in ("student", "initial"):
        success, failure = (torch.tensor(ratios[name, outcome]).mean() for outcome in (True, False))
        assert found[f"diagnosis/{name}_margin_nats"] == pytest.approx(float(success - failure), rel=1e-3, abs=1e-4)
    assert found["diagnosis/student_margin_nats"] != found["diagnosis/initial_margin_nats"]


def test_it_measures_every_so_many_steps_and_never_where_it_is_off(new_policy: NewPolicy) -> None:
    policy = new_policy()
    made = batches(policy, 5)
    assert [bool(Diagnosis(policy, 2)(batch)) for batch in made] == [True, False, True, False, True]
    assert not any(Diagnosis(policy, None)(batch) for batch in made)
