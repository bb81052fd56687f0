"""Every recipe and experiment that ships can be read."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from shared.algorithm_settings import AlgorithmSettings
from shared.load_settings import load_settings
from trainer.experiments.file import read_experiment
from trainer.experiments.plan import make_plan

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_loads(recipe: Path) -> None:
    load_settings([recipe], environ={})


def test_every_algorithm_has_a_recipe() -> None:
    names = {model.model_fields["name"].default for model in get_args(get_args(AlgorithmSettings)[0])}
    assert {load_settings([RECIPES / f"{name}.toml"], environ={}).algorithm.name for name in names} == names


@pytest.mark.parametrize("file", sorted((RECIPES / "experiments").glob("*.toml")), ids=lambda path: path.stem)
def test_an_experiment_can_be_planned(file: Path, tmp_path: Path) -> None:
    experiment = read_experiment(file)
    plan = make_plan(experiment, tmp_path, origin=file.name, overrides=[], only=[])
    assert len({run.name for run in plan.runs}) == len(plan.runs) > 0


@pytest.mark.parametrize("file", sorted((RECIPES / "experiments").glob("*.toml")), ids=lambda path: path.stem)
def test_an_experiments_person_has_a_source_to_write_to(file: Path, tmp_path: Path) -> None:
    plan = make_plan(read_experiment(file), tmp_path, origin=file.name, overrides=[], only=[])
    written = [run for run in plan.runs if run.critiques_per_step]
    assert all("human" in run.settings.feedback.sources for run in written)
