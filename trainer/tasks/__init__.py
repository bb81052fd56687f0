"""Where a run's prompts come from: a built-in world, a benchmark in its own format, or a user's data. What judges the
answers is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from shared.errors import DataError, SettingsError
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks.cold_start.task_set import ColdStart
from trainer.tasks.finite import FiniteTasks
from trainer.tasks.house_dialect.task_set import HouseDialect
from trainer.tasks.outcome import Outcome
from trainer.tasks.outcome_only.task_set import OutcomeOnly, RareSuccess
from trainer.tasks.renamed_library.task_set import RenamedLibrary
from trainer.tasks.rigid_math.task_set import RigidMath
from trainer.tasks.sources import Loaded, load_data

BUILTIN = "builtin:"
log = structlog.get_logger("tasks")


class TaskSet(Protocol):
    """Training prompts by step and held-out tasks, the same at every call."""

    def training(self, step: int, count: int) -> list[Task]:
        """The `count` tasks of training step `step` (0-based): a function of the seed, the step and the count."""

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks, or all there are if fewer; none of them is ever a training task."""


class World(TaskSet, Protocol):
    """A built-in task set that can judge its own tasks, and knows what a person would remark on an attempt."""

    def judge(self, task: Task, text: str) -> Outcome:
        """What the world's outcome source says about response `text` that ended by itself, found without asking it:
        success, and the same text (`outcome_only` keeps it back)."""

    def remark(self, task: Task, text: str) -> str | None:
        """One short sentence of a person who knows the environment about a failed attempt; None where there is
        nothing to say."""


def load_tasks(settings: TaskSettings, *, seed: int) -> TaskSet:
    """The tasks the settings name; `seed` draws their order.

    Raises SettingsError for a world or data that is not there, DataError for a row that is wrong.
    """
    if settings.source.startswith(BUILTIN):
        if settings.held_out is not None:
            raise SettingsError("tasks.held_out: a built-in world has held-out tasks of its own; leave it out.")
        return load_world(settings.source.removeprefix(BUILTIN), world_seed=settings.world_seed, seed=seed)
    loaded = load_data(settings)
    _refuse_mistakes(loaded)
    for reading in loaded.readings:
        if reading.left_out or reading.tests_left_out:
            log.info("rows left out", data=reading.name, tests=reading.tests_left_out, **reading.left_out)
    return FiniteTasks(loaded.training, loaded.held_out, seed=seed)


def _refuse_mistakes(loaded: Loaded) -> None:
    if loaded.mistakes:
        first, *others = loaded.mistakes
        more = f" {len(others)} more rows are wrong; `vpd data check` lists them." if others else ""
        raise DataError(f"{first}{more}", field=first.field) from first


def load_world(name: str, *, world_seed: int, seed: int) -> World:
    """The world of that name as `world_seed` draws it. Raises SettingsError for a world that is not there."""
    worlds = {**WORLDS, **VARIANTS}
    if name not in worlds:
        raise SettingsError(f"tasks.source: there is no built-in world {name!r}; there is {', '.join(worlds)}.")
    return worlds[name](world_seed=world_seed, seed=seed)


class _MakeWorld(Protocol):
    def __call__(self, *, world_seed: int, seed: int) -> World: ...


WORLDS: Mapping[str, _MakeWorld] = {
    "renamed_library": RenamedLibrary,
    "house_dialect": HouseDialect,
    "outcome_only": OutcomeOnly,
    "cold_start": ColdStart,
    "rigid_math": RigidMath,
}
"""The built-in worlds by name, each with a package of that name here."""
VARIANTS: Mapping[str, _MakeWorld] = {"outcome_only/rare": RareSuccess}
"""Other environments for the model of the world before the slash."""
