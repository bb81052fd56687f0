"""The tasks of a run in rigid math: kind `math`, judged by critic-feedback's rule."""

from __future__ import annotations

import random

from services.critic_feedback.app import judge_answer
from shared.protocol import FeedbackItem, Message, Response, Task
from trainer.tasks.outcome import Outcome
from trainer.tasks.rigid_math.problems import (
    Problem,
    draw_training_problem,
    held_out_problems,
    parse,
    problem,
    right_solution,
    written,
)


class RigidMath:
    """`World` of arithmetic: the same everywhere, so that `world_seed` only draws other tasks; `seed` draws a run's."""

    name = "rigid_math"

    def __init__(self, *, world_seed: int, seed: int) -> None:
        self._world_seed = world_seed
        self._seed = seed

    def training(self, step: int, count: int) -> list[Task]:
        """`count` different tasks of step `step`."""
        draw = random.Random(f"training:{self._world_seed}:{self._seed}:{step}")
        problems: dict[Problem, None] = {}
        while len(problems) < count:
            problems[draw_training_problem(draw)] = None
        return [self._task(one) for one in problems]

    def held_out(self, count: int) -> list[Task]:
        """The first `count` of the world's 300 held-out tasks, the same for every run of a `world_seed`."""
        problems = list(held_out_problems())
        random.Random(f"held out:{self._world_seed}").shuffle(problems)
        return [self._task(one) for one in problems[:count]]

    def judge(self, task: Task, text: str) -> Outcome:
        """What critic-feedback's `/answer` says about a response that ended by itself. Raises ValueError for a task
        it does not judge."""
        item = FeedbackItem(trajectory_id="t", group_id="g", policy_version=0, task=task, response=Response(text=text))
        feedback = judge_answer(item)
        if feedback.success is None:
            raise ValueError(feedback.error.message if feedback.error else "The source abstained.")
        return Outcome(feedback.success, feedback.text)

    def remark(self, task: Task, text: str) -> str | None:
        """What a person who can do arithmetic writes about a failed attempt: the first line that is wrong. None for a
        success."""
        if self.judge(task, text).success:
            return None
        right = right_solution(problem(task.messages[-1].content))
        lines = parse(text) or []
        wrong = (r for r, line in zip(right, lines, strict=False) if r != line)
        return next((f"Not so: {line.text}." for line in wrong), "Write one line for each step, then the answer.")

    def solution(self, task: Task) -> str:
        """A response that is right."""
        return written(right_solution(problem(task.messages[-1].content)))

    def _task(self, one: Problem) -> Task:
        return Task(
            id=f"{self.name}-{self._world_seed}-{one.name}",
            kind="math",
            messages=[Message(role="user", content=one.question)],
            reference={"answer": str(right_solution(one)[-1].result)},
        )
