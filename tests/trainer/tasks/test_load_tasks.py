"""`load_tasks`: which source gives which tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import TaskSettings
from trainer.tasks import load_tasks


def test_the_default_settings_give_the_built_in_world() -> None:
    tasks = load_tasks(TaskSettings(), seed=1).training(0, 4)
    assert [task.kind for task in tasks] == ["code.functional"] * 4


def test_an_unknown_world_is_refused_with_the_worlds_there_are() -> None:
    with pytest.raises(SettingsError, match=r"tasks\.source.*'nowhere'.*renamed_library"):
        load_tasks(TaskSettings(source="builtin:nowhere"), seed=1)


def test_a_world_takes_no_held_out_file() -> None:
    with pytest.raises(SettingsError, match=r"tasks\.held_out"):
        load_tasks(TaskSettings(held_out="mine.jsonl"), seed=1)


def test_any_other_source_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.jsonl cannot be read"):
        load_tasks(TaskSettings(source=str(tmp_path / "nothing.jsonl")), seed=1)
