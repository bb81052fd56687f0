"""Every algorithm goes on from its saved state bit for bit, through a file as a checkpoint is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from trainer_algorithms import batches, same, tools, weights

from shared.algorithm_settings import AlgorithmSettings
from trainer.algorithms import Tools, make
from trainer.policy import Policy

NewPolicy = Callable[..., Policy]
CASES: list[dict[str, Any]] = [
    {"name": "vpd"},
    {"name": "vpd", "e_step": {"optimizer": "shared"}},
    {"name": "vpd", "e_step": {"prior": "fixed", "every": 2}},
    {"name": "vpd", "e_step": {"every": 3, "buffer_steps": 3, "gradient_steps": 2}},
    {"name": "vpd", "teacher": {"weights": "ema", "rate": 0.3}},
    {"name": "vpd", "teacher": {"weights": "separate"}},
    {"name": "vpd_grpo", "m_step": {"epochs": 2, "minibatches": 2}},
    {"name": "sdpo_grpo", "teacher": {"weights": "gated", "gate_steps": 2, "gate_gain": 0.0}},
    {"name": "reshaped_grpo", "teacher": {"weights": "ema", "rate": 0.3}},
    {"name": "reweighted_grpo", "decay_steps": 3},
    *({"name": "sdpo", "teacher": {"weights": w, "rate": 0.3}} for w in ("live", "ema", "trust_region", "frozen")),
    {"name": "sdpo", "m_step": {"divergence": "jsd", "top_k": 5}},
    {"name": "grpo"},
]


def algorithm_of(case: dict[str, Any], made: Tools) -> Any:
    return make(TypeAdapter(AlgorithmSettings).validate_python(case), made)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    new_policy: NewPolicy, tmp_path: Path, case: dict[str, Any]
) -> None:
    policy = new_policy()
    made = tools(policy)
    steps = batches(policy, 5)
    algorithm = algorithm_of(case, made)
    for step, batch in enumerate(steps):
        if step == 2:
            state = {
                "policy": policy.network.state_dict(),
                "optimizer": made.optimizer.state_dict(),
                "algorithm": algorithm.state_dict(),
            }
            torch.save(state, tmp_path / "state.pt")
        algorithm.train_step(batch)

    resumed = new_policy()
    again = tools(resumed)
    continued = algorithm_of(case, again)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.network.load_state_dict(state["policy"])
    again.optimizer.load_state_dict(state["optimizer"])
    continued.load_state_dict(state["algorithm"])
    for batch in steps[2:]:
        continued.train_step(batch)

    assert same(weights(resumed), weights(policy))
    assert not same(weights(policy), weights(new_policy()))


def test_an_algorithm_without_state_refuses_one_of_another(new_policy: NewPolicy) -> None:
    with pytest.raises(ValueError, match="keeps no state"):
        algorithm_of({"name": "grpo"}, tools(new_policy())).load_state_dict({"delta": {}})


def test_settings_name_the_algorithm(new_policy: NewPolicy) -> None:
    names = ("vpd", "vpd_grpo", "sdpo", "sdpo_grpo", "grpo", "reshaped_grpo", "reweighted_grpo")
    made = [type(algorithm_of({"name": n}, tools(new_policy()))).__name__ for n in names]
    assert made == ["VPD", "VPD", "SDPO", "SDPO", "GRPO", "ReshapedGRPO", "ReweightedGRPO"]
