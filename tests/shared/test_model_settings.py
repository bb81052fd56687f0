"""Adapters in the settings: a section that may be none, and what goes together with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.load_settings import load_settings, public_settings
from shared.settings import Settings

VLLM = ["model.lora.publish=adapter", "inference.engine=vllm"]


def loaded(*overrides: str, environ: dict[str, str] | None = None, recipes: tuple[Path, ...] = ()) -> Settings:
    return load_settings(recipes, overrides, environ or {})


def test_without_a_word_about_it_there_is_no_adapter() -> None:
    assert loaded().model.lora is None


def test_any_of_its_settings_turns_the_adapter_on_with_the_defaults_for_the_rest(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[model.lora]\n")
    for settings in (
        loaded("model.lora.rank=16"),
        loaded(environ={"VPD_MODEL__LORA__ALPHA": "32"}),
        loaded(recipes=(recipe,)),
    ):
        assert settings.model.lora is not None
        assert (settings.model.lora.rank, settings.model.lora.alpha, settings.model.lora.targets) == (16, 32.0, None)


def test_none_turns_the_adapter_of_a_recipe_off_and_later_settings_turn_it_on_anew(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[model.lora]\nrank = 64\n")
    assert loaded("model.lora=none", recipes=(recipe,)).model.lora is None
    assert loaded(recipes=(recipe,), environ={"VPD_MODEL__LORA": "none"}).model.lora is None
    again = loaded("model.lora=none", "model.lora.alpha=8", recipes=(recipe,)).model.lora
    assert again is not None and (again.rank, again.alpha) == (16, 8.0)


@pytest.mark.parametrize("overrides", [[], ["model.lora.rank=8", 'model.lora.targets=["q_proj"]']])
def test_public_settings_with_and_without_an_adapter_give_the_same_again(tmp_path: Path, overrides: list[str]) -> None:
    settings = loaded(*overrides)
    recipe = tmp_path / "settings.json"
    recipe.write_text(json.dumps(public_settings(settings)))
    assert loaded(recipes=(recipe,)) == settings


def test_an_adapter_alone_is_published_to_an_engine_that_takes_its_rank() -> None:
    settings = loaded(*VLLM, "model.lora.rank=16", "inference.vllm.lora_rank=16")
    assert settings.model.lora is not None and settings.model.lora.publish == "adapter"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lora.publish=adapter"], ["model.lora.publish 'adapter' needs inference.engine 'vllm'", "'merged'"]),
        (VLLM, ["inference.vllm.lora_rank of at least 16"]),
        ([*VLLM, "inference.vllm.lora_rank=8"], ["inference.vllm.lora_rank of at least 16"]),
        (["model.lora.rank=8", "inference.publish=nccl"], ["inference.publish must be 'files' with model.lora"]),
        (["model.lora=16"], ["model.lora is a group of settings", "model.lora.rank"]),
        (["model.lora.rnk=16"], ["model.lora.rnk is not a setting", "model.lora.rank"]),
        (["model.lora.rank=0"], ["model.lora.rank must be an integer >= 1, not 0"]),
    ],
)
def test_what_does_not_go_together_is_one_sentence(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(*overrides)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
