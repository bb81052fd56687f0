"""Every recipe and experiment that ships can be read; every recipe dry-runs, and fits the hardware it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from cli.dry_run.memory import engine_memory, engine_plan, learner_memory, learner_plan, smallest_gpu
from cli.dry_run.report import dry_run_lines
from cli.dry_run.shapes import shape_of
from cli.recipes import head_of, recipe_files, recipe_lines
from shared.algorithm_settings import AlgorithmSettings
from shared.errors import SettingsError
from shared.load_settings import load_settings, resolve_settings
from shared.settings import Settings
from trainer.experiments.file import read_experiment
from trainer.experiments.plan import make_plan

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
ALL = recipe_files()
OF_THE_PAPER = [file for file in ALL if file.parent != RECIPES]
LARGE = [file for file in OF_THE_PAPER if head_of(file).hardware.startswith("8 ")]
BENCHMARKS = {
    "livecodebench": ["qwen3-8b"],
    "sciknoweval": ["qwen3-8b", "qwen3-1.7b", "olmo3-7b"],
    "math": ["qwen3-8b"],
    "cold_start": ["qwen3-4b-base"],
}


def named(file: Path) -> str:
    return str(file.relative_to(RECIPES).with_suffix(""))


def loaded(*recipes: Path) -> Settings:
    return load_settings(recipes, environ={})


def needed_gpu(settings: Settings) -> int | None:
    """The smallest GPU for learner and engine together."""
    shape, _ = shape_of(settings.model.path)
    of_engine = engine_plan(settings, shape)
    learner = sum(learner_memory(shape, learner_plan(settings, shape)).values())
    return smallest_gpu(learner, sum(engine_memory(shape, of_engine).values()), of_engine.share)


@pytest.mark.parametrize("recipe", ALL, ids=named)
def test_a_recipe_dry_runs(recipe: Path) -> None:
    report = "\n".join(dry_run_lines(resolve_settings([recipe], environ={})))
    assert "parameters, from" in report
    assert "rollouts, " in report


@pytest.mark.parametrize("recipe", OF_THE_PAPER, ids=named)
def test_the_head_of_a_recipe_says_what_it_is_what_it_needs_and_how_it_is_run(recipe: Path) -> None:
    head = head_of(recipe)
    assert head.about.endswith(".")
    assert head.paper
    assert head.command == f"vpd up --recipe {recipe.relative_to(ROOT)}"


@pytest.mark.parametrize("recipe", OF_THE_PAPER, ids=named)
def test_learner_and_engine_fit_together_on_the_hardware_a_recipe_names(recipe: Path) -> None:
    settings = loaded(recipe)
    gpus, size = re.fullmatch(r"(\d+) GPUs of (\d+) GB", head_of(recipe).hardware).groups()  # type: ignore[union-attr]
    assert settings.learner.ranks == engine_plan(settings, shape_of(settings.model.path)[0]).gpus == int(gpus)
    assert (needed_gpu(settings) or 999) <= int(size)


@pytest.mark.parametrize("recipe", LARGE, ids=named)
def test_an_adapter_makes_a_recipe_fit_on_one_gpu(recipe: Path) -> None:
    settings = loaded(recipe, RECIPES / "layers" / "hardware" / "1x80gb-lora.toml")
    assert settings.learner.ranks == 1
    assert needed_gpu(settings) == 80


@pytest.mark.parametrize(
    "recipe", [f for f in LARGE if loaded(f).algorithm.name in ("grpo", "vpd", "vpd_grpo")], ids=named
)
def test_shorter_rows_make_grpo_and_vpd_fit_on_four_gpus(recipe: Path) -> None:
    settings = loaded(recipe, RECIPES / "layers" / "hardware" / "4x80gb-8b.toml")
    assert settings.learner.ranks == 4
    assert needed_gpu(settings) == 80


def test_runs_of_different_recipes_do_not_share_a_name() -> None:
    names = [loaded(file).run.name for file in OF_THE_PAPER]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("method", ["grpo", "sdpo", "vpd", "vpd-grpo"])
def test_each_row_of_the_papers_table_has_every_method(method: str) -> None:
    expected = {RECIPES / b / f"{model}-{method}.toml" for b, models in BENCHMARKS.items() for model in models}
    assert expected <= set(ALL)
    assert {loaded(file).algorithm.name for file in expected} == {method.replace("-", "_")}


@pytest.mark.parametrize("recipe", [f for f in OF_THE_PAPER if f.parent.name != "ablations"], ids=named)
def test_what_a_recipe_is_called_is_what_it_runs(recipe: Path) -> None:
    settings, name = loaded(recipe), recipe.stem
    model = {"8b": "Qwen3-8B", "1.7b": "Qwen3-1.7B", "7b": "Olmo-3-7B", "4b": "Qwen3-4B-Base"}
    assert model[name.split("-")[1]] in settings.model.path
    source = "sciknoweval" if recipe.parent.name == "cold_start" else recipe.parent.name
    assert settings.tasks.source.startswith(f"{source}:")


@pytest.mark.parametrize(
    ("name", "base", "differs"),
    [
        ("vpd-f1", "sciknoweval/qwen3-1.7b-vpd", {"algorithm.e_step.every", "algorithm.e_step.buffer_steps"}),
        ("vpd-f10", "sciknoweval/qwen3-1.7b-vpd", {"algorithm.e_step.every", "algorithm.e_step.buffer_steps"}),
        ("vpd-fixed-prior", "sciknoweval/qwen3-1.7b-vpd", {"algorithm.e_step.prior"}),
        ("vpd-shuffled", "sciknoweval/qwen3-1.7b-vpd", {"teacher_prompt.control"}),
        ("vpd-dropped", "sciknoweval/qwen3-1.7b-vpd", {"teacher_prompt.control"}),
        ("sdpo-teacher-live", "livecodebench/qwen3-8b-sdpo", {"algorithm.teacher.weights"}),
        ("sdpo-teacher-frozen", "livecodebench/qwen3-8b-sdpo", {"algorithm.teacher.weights"}),
    ],
)
def test_an_ablation_differs_from_its_recipe_in_what_is_ablated_alone(name: str, base: str, differs: set[str]) -> None:
    one, other = (dict(_flat(loaded(RECIPES / f"{file}.toml").model_dump())) for file in (f"ablations/{name}", base))
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == differs | {"run.name"}


def _flat(table: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in table.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return pairs


def test_the_list_of_recipes_can_be_narrowed_by_words() -> None:
    whole = "\n".join(recipe_lines())
    assert all(file.name in whole for file in ALL)
    assert "layers/" not in whole
    assert [line.split()[0] for line in recipe_lines(["vpd", "initial", "model"])[1:]] == [
        "recipes/ablations/vpd-fixed-prior.toml"
    ]
    with pytest.raises(SettingsError, match="is about bread"):
        recipe_lines(["bread"])


def test_every_algorithm_has_a_recipe() -> None:
    names = {model.model_fields["name"].default for model in get_args(get_args(AlgorithmSettings)[0])}
    assert {loaded(RECIPES / f"{name}.toml").algorithm.name for name in names} == names


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
