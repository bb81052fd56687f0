"""A run that trains an adapter, over real services: served merged, resumed, and the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_stack import Stack, final_weights, metrics, run, stack, summary
from safetensors.torch import load_file
from trainer_algorithms import same

ALGORITHM = {"name": "vpd", "teacher": {"weights": "ema"}, "e_step": {"prior": "fixed"}, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("lora"), tiny_model_directory, redis_url) as running:
        yield running


def with_adapter(services: Stack, name: str, place: str) -> Any:
    return services.settings(
        name,
        run={"dir": str(services.root / "runs" / place), "steps": 4},
        model={"gradient_checkpointing": True, "lora": {"rank": 2, "dropout": 0.1}},
        algorithm=ALGORITHM,
    )


def test_a_stopped_and_resumed_run_is_the_undisturbed_one_to_the_last_bit(services: Stack) -> None:
    whole, stopped = with_adapter(services, "adapter", "whole"), with_adapter(services, "adapter", "stopped")
    run(whole)
    run(stopped, stop_after=1)
    run(stopped)
    assert metrics(whole) == metrics(stopped)
    assert same(final_weights(whole), final_weights(stopped))
    assert summary(whole)["optimizer_steps"] > 0
    initial = load_file(services.model / "model.safetensors")
    moved = {name for name, tensor in final_weights(whole).items() if not torch.equal(tensor, initial[name])}
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert moved == {name for name in initial if name.split(".")[-2] in linear}
