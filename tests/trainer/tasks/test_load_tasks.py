"""`load_tasks`: which source gives which tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import TaskSettings
from trainer.tasks import VARIANTS, WORLDS, load_tasks, load_world


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


@pytest.mark.parametrize("world", [*WORLDS, *VARIANTS])
def test_every_world_has_300_held_out_tasks_and_training_tasks_of_a_seed(world: str) -> None:
    tasks = load_tasks(TaskSettings(source=f"builtin:{world}", world_seed=2), seed=1)
    same = load_world(world, world_seed=2, seed=1)
    held_out = tasks.held_out(1000)
    assert len({task.id for task in held_out}) == len(held_out) == 300
    assert held_out[:7] == same.held_out(7)
    assert tasks.training(5, 8) == same.training(5, 8) != same.training(6, 8)
    assert not {task.id for task in held_out} & {task.id for step in range(20) for task in same.training(step, 16)}
