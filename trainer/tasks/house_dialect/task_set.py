"""The tasks of a run in a house: mostly three steps, judged by tests against the house's own dialect."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property

from shared.protocol import Message, Task
from trainer.tasks.code_judge import CodeJudge
from trainer.tasks.house_dialect.critiques import NO_PROGRAM, remark
from trainer.tasks.house_dialect.dialect import world_dialect
from trainer.tasks.house_dialect.outcomes import Test, judge
from trainer.tasks.house_dialect.programs import Step, asked, parse, program, question
from trainer.tasks.house_dialect.questions import (
    draw_checked,
    draw_training_verbs,
    held_out_combinations,
    solution,
)
from trainer.tasks.house_dialect.verbs import VERBS
from trainer.tasks.outcome import Outcome

TWO_STEP_SHARE = 0.2
TIME_LIMIT_S = 2.0


class HouseDialect:
    """`World` of the dialect drawn by `world_seed`; `seed` draws its training prompts."""

    name = "house_dialect"

    def __init__(self, *, world_seed: int, seed: int) -> None:
        self.dialect = world_dialect(world_seed)
        self._world_seed = world_seed
        self._seed = seed
        self._code = CodeJudge()

    def training(self, step: int, count: int) -> list[Task]:
        """`count` different tasks of step `step`: a fifth of two steps, the rest of three."""
        draw = random.Random(f"training:{self._world_seed}:{self._seed}:{step}")
        tasks: dict[str, Task] = {}
        while len(tasks) < count:
            length = 2 if draw.random() < TWO_STEP_SHARE else 3
            task = self._task(*draw_checked(draw, draw_training_verbs(draw, length), self.dialect))
            tasks.setdefault(task.id, task)
        return list(tasks.values())

    def held_out(self, count: int) -> list[Task]:
        """The first `count` of the world's 300 held-out tasks, the same for every run in this house."""
        return self._held_out[:count]

    def judge(self, task: Task, text: str) -> Outcome:
        """What code-feedback at its default settings says about response `text`. Raises what `CodeJudge` does, but
        not for programs of the world's shape: those need no sandbox."""
        lines = parse(text)
        if lines is None or not task.id.startswith(f"{self.name}-"):
            return self._code.judge(task, text)
        tests = [_test(test["input"], test["output"]) for test in task.reference["tests"]]
        if len(lines) < max(step for _, step, _ in tests):
            return self._code.judge(task, text)
        return judge(lines, tests)

    def remark(self, task: Task, text: str) -> str | None:
        """What a person who knows the house writes about a failed attempt: what the first verb means that was taken
        otherwise. None for a success."""
        if self.judge(task, text).success:
            return None
        steps = asked(task.messages[-1].content)
        right, written = solution(steps, self.dialect), parse(text) or []
        if len(written) != len(right):
            return NO_PROGRAM
        return next(remark(step, r) for step, r, w in zip(steps, right, written, strict=True) if r != w)

    def solution(self, task: Task) -> str:
        """A response that passes."""
        return program(solution(asked(task.messages[-1].content), self.dialect))

    @cached_property
    def _held_out(self) -> list[Task]:
        draw = random.Random(f"held out:{self._world_seed}")
        by_name = {verb.name: verb for verb in VERBS}
        chosen = sorted(sorted(names) for names in held_out_combinations())
        draw.shuffle(chosen)
        return [self._task(*draw_checked(draw, [by_name[name] for name in names], self.dialect)) for names in chosen]

    def _task(self, steps: Sequence[Step], tests: Sequence[Test]) -> Task:
        name = ".".join(f"{step.verb.name}{step.constant}" for step in steps)
        return Task(
            id=f"{self.name}-{self._world_seed}-{name}",
            kind="code.functional",
            messages=[Message(role="user", content=question(steps))],
            reference={
                "fn_name": "solve",
                "tests": [{"input": f"{x}\n{step}", "output": str(value), "public": True} for x, step, value in tests],
                "time_limit_s": TIME_LIMIT_S,
                "max_failures": 1,
            },
        )


def _test(given: str, wanted: str) -> Test:
    x, step = given.split("\n")
    return int(x), int(step), int(wanted)
