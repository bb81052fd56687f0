"""The tasks of a run in the renamed library: mostly three steps, judged by tests against the run's own library."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property

from shared.protocol import Message, Task
from trainer.tasks.code_judge import CodeJudge
from trainer.tasks.outcome import Outcome
from trainer.tasks.renamed_library.concepts import CONCEPTS, CONSTANTS
from trainer.tasks.renamed_library.library import world_library
from trainer.tasks.renamed_library.outcomes import Test, judge
from trainer.tasks.renamed_library.programs import Call, Step, asked, parse, program, question
from trainer.tasks.renamed_library.prompts import draw_checked, draw_training_concepts, held_out_combinations

TWO_STEP_SHARE = 0.2
TIME_LIMIT_S = 2.0
REMARK = "Use {right} instead of {written}."
NO_PROGRAM = "Write one call of lib for each step, in one Python block."

_NAMES = frozenset(name for concept in CONCEPTS for name in concept.names)


class RenamedLibrary:
    """`World` of the library drawn by `world_seed`; `seed` draws its training prompts."""

    def __init__(self, *, world_seed: int, seed: int) -> None:
        self.library = world_library(world_seed)
        self._world_seed = world_seed
        self._seed = seed
        self._code = CodeJudge()

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

    def judge(self, task: Task, text: str) -> Outcome:
        """What code-feedback at its default settings says about response `text`. Raises what `CodeJudge` does, but
        not for programs of the world's shape: those need no sandbox."""
        calls = self._calls(text)
        if calls is None or task.reference.get("files") != {"lib.py": self.library.source}:
            return self._code.judge(task, text)
        tests = [(int(test["input"]), int(test["output"])) for test in task.reference["tests"]]
        return judge(calls, self.library, tests)

    def remark(self, task: Task, text: str) -> str | None:
        """What a person who knows the library writes about a failed attempt: the first name that is not the right
        one. None for a success."""
        if self.judge(task, text).success:
            return None
        right = [self.library.real(step.concept) for step in asked(task.messages[-1].content)]
        written = [call.name for call in parse(text) or []]
        if len(written) != len(right):
            return NO_PROGRAM
        wrong = ((r, w) for r, w in zip(right, written, strict=True) if r != w)
        return next((REMARK.format(right=r, written=w) for r, w in wrong), "The constants are not those of the steps.")

    def _calls(self, text: str) -> list[Call] | None:
        """The calls of a program whose outcome is known without running it, else None."""
        calls = parse(text)
        if calls is None or program(calls) != text:
            return None
        known = all(call.name in _NAMES and call.constant in CONSTANTS for call in calls)
        return calls if known else None

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
                "max_failures": 1,
            },
        )
