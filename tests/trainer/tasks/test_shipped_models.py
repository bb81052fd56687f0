"""The shipped models of the worlds: where their records say a run starts from, they do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.tasks import WORLDS
from trainer.tasks.pretrain import SEEDS, directory_of, recipe_of

MEASURED = [(world, variant) for world in WORLDS if world != "renamed_library" for variant in SEEDS]


@pytest.fixture(scope="module", params=MEASURED, ids="/".join)
def measured(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], dict[str, float]]:
    """The world, what the record says, and the same figures over other samples."""
    world, variant = request.param
    torch.set_num_threads(1)
    directory = directory_of(world, variant)
    recorded = json.loads((directory / "training.json").read_text())["prior"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return world, recorded, dict(recipe_of(world).measure(model, tokenizer, 300, 77))


Measured = tuple[str, dict[str, Any], dict[str, float]]


def test_the_figures_of_the_record_are_found_again(measured: Measured) -> None:
    _, recorded, found = measured
    for name, figure in found.items():
        assert abs(figure - recorded[name]) < 0.08, name


def test_a_run_starts_with_well_formed_responses_of_which_some_are_right(measured: Measured) -> None:
    world, _, found = measured
    assert found["well_formed"] > 0.98
    low, high = (0.2, 0.45) if world == "rigid_math" else (0.06, 0.25)
    assert low < found["student_accuracy"] < high


def test_feedback_helps_where_the_model_has_met_it_and_solutions_where_it_has_met_those(measured: Measured) -> None:
    world, recorded, _ = measured
    told = recorded.get("teacher_accuracy", 0.0) - recorded["student_accuracy"]
    shown = recorded["shown_accuracy"] - recorded["student_accuracy"]
    assert (told > 0.04) == (world in ("house_dialect", "rigid_math"))
    assert (shown > 0.2) == (world != "cold_start")
