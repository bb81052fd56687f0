"""The tasks of a run in the renamed library: mostly three steps, judged by tests against the run's own library."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property

from shared.protocol import Message, Task
from trainer.tasks.renamed_library.concepts import CONCEPTS
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.outcomes import Test
from trainer.tasks.renamed_library.programs import Step, question
from trainer.tasks.renamed_library.prompts import draw_checked, draw_training_concepts, held_out_combinations

TWO_STEP_SHARE = 0.2
TIME_LIMIT_S = 2.0


class RenamedLibrary:
    """`TaskSet` of the library drawn by `world_seed`; `seed` draws its training prompts."""

    def __init__(self, *, world_seed: int, seed: int) -> None:
        self.library = world_library(world_seed)
        self._world_seed = world_seed
        self._seed = seed

    def training(self, step: int, count: int) -> list[Task]:
        """`count` different tasks of step `step`: a fifth of two steps, the rest of three."""
        draw = random.Random(f"training:{self._world_seed}:{self._seed}:{step}")
        tasks: dict[str, Task] = {}
        while len(tasks) < count:
            length = 2 if draw.random() < TWO_STEP_SHARE else 3
            task = self._task(*draw_checked(draw, draw_training_concepts(draw, length)))
            tasks.setdefault(task.id, task)
        return list(tasks.values())

    def held_out(self, count: int) -> list[Task]:
        """The first `count` of the world's 300 held-out tasks, the same for every run in this library."""
        return self._held_out[:count]

    @cached_property
    def _held_out(self) -> list[Task]:
        draw = random.Random(f"held out:{self._world_seed}")
        by_name = {c.usual: c for c in CONCEPTS}
        chosen = [[by_name[name] for name in sorted(names)] for names in held_out_combinations()]
        chosen.sort(key=lambda concepts: [c.usual for c in concepts])
        draw.shuffle(chosen)
        return [self._task(*draw_checked(draw, draw.sample(concepts, len(concepts)))) for concepts in chosen]

    def _task(self, steps: Sequence[Step], tests: Sequence[Test]) -> Task:
        name = ".".join(f"{s.concept.usual}{s.constant}" for s in steps)
        return Task(
            id=f"renamed_library-{self._world_seed}-{name}",
            kind="code.functional",
            messages=[Message(role="user", content=question(steps))],
            reference={
                "fn_name": "solve",
                "files": {"lib.py": self.library.source},
                "tests": [{"input": str(x), "output": str(out), "public": True} for x, out in tests],
                "time_limit_s": TIME_LIMIT_S,
            },
        )
