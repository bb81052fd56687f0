"""Where models are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.models import resolve_model


def test_a_directory_with_a_config_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_hub_id_is_itself() -> None:
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(("path", "place"), [("house_dialect", "model"), ("rigid_math/seed2", "model_seed2")])
def test_a_world_and_a_variant_of_it_are_directories_that_ship(path: str, place: str) -> None:
    directory = resolve_model(f"builtin:{path}")
    assert isinstance(directory, Path)
    assert (directory.parent.name, directory.name) == (path.partition("/")[0], place)
    assert (directory / "model.safetensors").is_file()


def test_the_error_for_an_unknown_variant_lists_what_ships() -> None:
    with pytest.raises(SettingsError, match=r"builtin:house_dialect, builtin:house_dialect/seed2, "):
        resolve_model("builtin:house_dialect/seed99")


@pytest.mark.parametrize("path", ["/no/such/model", "./no-such-model", "runs/a/policy/v1", "builtin:nothing"])
def test_a_model_that_is_not_there_is_one_sentence_naming_the_setting(path: str) -> None:
    with pytest.raises(SettingsError, match=r"^model\.path: there is no model"):
        resolve_model(path)


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
