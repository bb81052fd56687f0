"""From a file to runs: names, settings and where a learning rate comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments.experiment_files import SEARCH, SMALL, plan

from shared.errors import SettingsError


def test_runs_are_conditions_times_arms_times_seeds_in_directories_of_their_own(tmp_path: Path) -> None:
    found = plan(tmp_path, conditions=[{"name": "a"}, {"name": "b"}])
    assert [r.name for r in found.runs] == [
        f"{condition}-{arm}-s{seed}" for seed in (1, 2) for condition in "ab" for arm in ("vpd", "grpo")
    ]
    for run in found.runs:
        assert Path(run.settings.run.dir) / run.settings.run.name == found.path(run)
        assert run.settings.run.seed == run.seed


def test_stronger_settings_win_seed_over_arm_over_condition_over_common(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        settings={"run": {"steps": 1}, "rollout": {"max_tokens": 1, "samples_per_prompt": 1, "prompts_per_step": 1}},
        conditions=[{"name": "c", "settings": {"rollout": {"max_tokens": 2, "samples_per_prompt": 2}}}],
        arms=[{"name": "vpd", "settings": {"rollout": {"samples_per_prompt": 3}, "tasks": {"world_seed": 3}}}],
        seeds=[{"seed": 1, "settings": {"tasks": {"world_seed": 4}}}],
    )
    (settings,) = (run.settings for run in found.runs)
    rollout = settings.rollout
    assert (rollout.prompts_per_step, rollout.max_tokens, rollout.samples_per_prompt) == (1, 2, 3)
    assert settings.tasks.world_seed == 4


def test_overrides_are_strongest_but_cannot_move_a_run(tmp_path: Path) -> None:
    found = plan(tmp_path, overrides=["run.steps=3", "run.name=elsewhere"])
    assert {run.settings.run.steps for run in found.runs} == {3}
    assert found.runs[0].settings.run.name == "main-vpd-s1"


def test_the_environment_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPD_RUN__STEPS", "77")
    assert {run.settings.run.steps for run in plan(tmp_path).runs} == {10}


def test_a_search_tries_every_rate_with_seeds_and_settings_of_its_own(tmp_path: Path) -> None:
    found = plan(tmp_path, search=SEARCH)
    searched = found.searched(("main", "vpd"))
    assert [r.name for r in searched] == [
        f"search-main-vpd-lr{rate}-s{seed}" for rate in ("1e-3", "2_5e-4") for seed in (7, 8)
    ]
    assert [(r.rate, r.settings.algorithm.learning_rate) for r in searched] == [
        (r, r) for r in (1e-3, 1e-3, 2.5e-4, 2.5e-4)
    ]
    assert {r.settings.run.steps for r in searched} == {5}
    assert {r.settings.run.steps for r in found.of("main", "vpd")} == {10}
    assert {r.rate_from for r in found.of("main", "vpd")} == {("main", "vpd")}


def test_an_arm_can_borrow_anothers_rate_or_try_its_own(tmp_path: Path) -> None:
    arms = [
        {**SMALL["arms"][0], "learning_rates": [3e-3]},
        {"name": "other", "settings": {"algorithm": {"name": "vpd"}}, "learning_rate_of": "vpd"},
    ]
    found = plan(tmp_path, arms=arms, search=SEARCH)
    assert {r.rate for r in found.runs if r.search} == {3e-3} and not found.searched(("main", "other"))
    assert {r.rate_from for r in found.of("main", "other")} == {("main", "vpd")}
    assert {r.at_rate(0.5).algorithm.learning_rate for r in found.of("main", "other")} == {0.5}


def test_only_some_arms_keeps_the_search_they_borrow_from(tmp_path: Path) -> None:
    arms = [*SMALL["arms"], {"name": "other", "settings": {"algorithm": {"name": "vpd"}}, "learning_rate_of": "vpd"}]
    found = plan(tmp_path, arms=arms, search=SEARCH, only=["other"])
    assert {r.arm for r in found.runs if r.search} == {"vpd"}
    assert {r.arm for r in found.runs if not r.search} == {"other"}


def test_a_seed_may_take_another_variant_of_the_built_in_model(tmp_path: Path) -> None:
    found = plan(tmp_path, seeds=[{"seed": 1}, {"seed": 2, "variant": "seed2"}])
    assert [r.settings.model.path for r in found.of("main", "vpd")] == [
        "builtin:renamed_library",
        "builtin:renamed_library/seed2",
    ]


def test_an_arm_is_run_in_its_conditions_alone(tmp_path: Path) -> None:
    arms = [SMALL["arms"][0], {**SMALL["arms"][1], "conditions": ["b"]}]
    found = plan(tmp_path, conditions=[{"name": "a"}, {"name": "b"}], arms=arms)
    assert {(r.condition, r.arm) for r in found.runs} == {("a", "vpd"), ("b", "vpd"), ("b", "grpo")}


def test_a_person_of_an_arm_goes_before_the_experiments(tmp_path: Path) -> None:
    arms = [{**SMALL["arms"][0], "person": {"rollouts_per_step": 0}}, SMALL["arms"][1]]
    found = plan(tmp_path, arms=arms, person={"rollouts_per_step": 2})
    assert {r.arm: r.critiques_per_step for r in found.runs} == {"vpd": 0, "grpo": 2}


def test_a_person_of_a_condition_writes_in_that_condition_alone(tmp_path: Path) -> None:
    found = plan(tmp_path, conditions=[{"name": "a"}, {"name": "b", "person": {"rollouts_per_step": 3}}])
    assert {r.condition: r.critiques_per_step for r in found.runs} == {"a": 0, "b": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"run": {"stepz": 1}}}, r"run.stepz is not a setting \(from settings of small.toml\)"),
        ({"arms": [{"name": "x", "settings": {"algorithm": {"name": "ppo"}}}]}, "from arm x of small.toml"),
        ({"only": ["ppo"]}, "--only: there is no arm ppo; there is vpd, grpo"),
        (
            {"settings": {"model": {"path": "some/model"}}, "seeds": [{"seed": 1, "variant": "b"}]},
            "variant b is one of",
        ),
        ({"conditions": [{"name": "a"}, {"name": "a-b"}], "arms": [{"name": "b-c"}, {"name": "c"}]}, "named a-b-c-s1"),
    ],
)
def test_what_cannot_be_planned_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        plan(tmp_path, **changes)  # type: ignore[arg-type]
