"""Where a run's prompts come from: a built-in world, or a user's JSONL file. What judges the answers is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from shared.errors import SettingsError
from shared.protocol import Task
from shared.settings import TaskSettings
from trainer.tasks.jsonl import FileTasks
from trainer.tasks.renamed_library.task_set import RenamedLibrary

BUILTIN = "builtin:"
WORLDS = ("renamed_library",)


class TaskSet(Protocol):
    """Training prompts by step and held-out tasks, the same at every call."""

    def training(self, step: int, count: int) -> list[Task]:
        """The `count` tasks of training step `step` (0-based): a function of the seed, the step and the count."""

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks, or all there are if fewer; none of them is ever a training task."""


def load_tasks(settings: TaskSettings, *, seed: int) -> TaskSet:
    """The tasks the settings name; `seed` draws their order.

    Raises SettingsError for a world or a file that is not there, DataError for a task that is wrong.
    """
    if not settings.source.startswith(BUILTIN):
        held_out = None if settings.held_out is None else Path(settings.held_out)
        return FileTasks(Path(settings.source), held_out, seed=seed)
    world = settings.source.removeprefix(BUILTIN)
    if world not in WORLDS:
        raise SettingsError(f"tasks.source: there is no built-in world {world!r}; there is {', '.join(WORLDS)}.")
    if settings.held_out is not None:
        raise SettingsError("tasks.held_out: a built-in world has held-out tasks of its own; leave it out.")
    return RenamedLibrary(world_seed=settings.world_seed, seed=seed)
