"""Accuracy of the student, and of the teacher that is told what was wrong with the student's attempt, on given tasks.

Both roll out from the inference service and are judged by the outcome source: nothing is scored in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from rich.console import Console

from shared.errors import DataError
from shared.feedback_client import FeedbackSources, Judgement
from shared.inference_client import InferenceClient
from shared.protocol import FeedbackItem, Message, Prompt, Response, Rollout, Sampling, Task, Trajectory
from shared.settings import EvaluationSettings, FeedbackSettings, Settings
from trainer.judging import Judge
from trainer.tasks import load_tasks
from trainer.teacher_prompt import Context, compose, feedback_text

log = structlog.get_logger("evaluate")


@dataclass(frozen=True)
class Evaluation:
    """Shares of judged rollouts that succeeded; None where none was judged. `unjudged` counts the others."""

    student_accuracy: float | None
    teacher_accuracy: float | None
    tasks: int
    unjudged: int


class Evaluator:
    """Asks the running services. Seeded: the same policy version gives the same figures."""

    def __init__(self, settings: Settings, inference: InferenceClient) -> None:
        self.settings = settings
        self.inference = inference
        self.sources = FeedbackSources(_outcome_only(settings.feedback), api_key=settings.api_key)
        self.judge = Judge(self.sources, settings.feedback)

    async def aclose(self) -> None:
        await self.sources.aclose()

    async def evaluate(self, tasks: Sequence[Task], *, version: int, purpose: str = "evaluation") -> Evaluation:
        """Student first; then the teacher, given the feedback on the student's own attempt and nothing else.

        `purpose` stands in the ids that the source sees.
        """
        attempts = await self._roll_out([list(t.messages) for t in tasks], seed=1)
        student = await self._judge(f"{purpose}-student", tasks, attempts, version)
        informed = [
            [*task.messages[:-1], self._teacher_message(task, rollout, judgement)]
            for task, rollouts, judged in zip(tasks, attempts, student, strict=True)
            for rollout, judgement in zip(rollouts, judged, strict=True)
        ]
        repeated = [task for task in tasks for _ in range(self.settings.evaluation.samples)]
        try:
            answers = await self._roll_out(informed, seed=2, samples=1)
            teacher = await self._judge(f"{purpose}-teacher", repeated, answers, version)
        except DataError as error:
            log.warning("the teacher cannot be evaluated: a prompt with feedback was refused", reason=str(error))
            teacher = []
        judged_student = [j.success for row in student for j in row if j.success is not None]
        judged_teacher = [j.success for row in teacher for j in row if j.success is not None]
        asked = 2 * len(repeated)
        unjudged = asked - len(judged_student) - len(judged_teacher)
        return Evaluation(_share(judged_student), _share(judged_teacher), len(tasks), unjudged)

    async def _roll_out(
        self, prompts: list[list[Message]], *, seed: int, samples: int | None = None
    ) -> list[list[Rollout]]:
        settings: EvaluationSettings = self.settings.evaluation
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=self.settings.rollout.max_tokens,
            seed=(self.settings.run.seed << 8) + seed,
        )
        answer = await self.inference.rollouts(
            [Prompt(messages=p) for p in prompts], n=samples or settings.samples, sampling=sampling
        )
        return [p.rollouts for p in answer.prompts]

    async def _judge(
        self, who: str, tasks: Sequence[Task], attempts: list[list[Rollout]], version: int
    ) -> list[list[Judgement]]:
        items = [
            FeedbackItem(
                trajectory_id=f"{who}-v{version}-{i}-{j}",
                group_id=f"{who}-v{version}-{i}",
                policy_version=version,
                task=task,
                response=Response(text=rollout.text, finish_reason=rollout.finish_reason),
            )
            for i, (task, rollouts) in enumerate(zip(tasks, attempts, strict=True))
            for j, rollout in enumerate(rollouts)
        ]
        judged = await self.judge(f"evaluation-v{version}", items)
        answers = iter(items)
        return [[judged[next(answers).trajectory_id] for _ in rollouts] for rollouts in attempts]

    def _teacher_message(self, task: Task, rollout: Rollout, judgement: Judgement) -> Message:
        trajectory = Trajectory(
            trajectory_id="evaluation", rollout=rollout, feedback=judgement.feedback, success=judgement.success
        )
        context = Context(None, feedback_text(trajectory, frozenset()), succeeded=judgement.success is not False)
        if not context:
            return task.messages[-1]
        text = compose(
            task.messages[-1].content,
            demonstration=None,
            feedback=context.feedback,
            succeeded=context.succeeded,
            settings=self.settings.teacher_prompt,
        )
        return Message(role="user", content=text)


def main(settings: Settings) -> int:
    """`vpd eval`: evaluate the policy that the inference service serves now, and print the figures."""
    evaluation, version = asyncio.run(_evaluate_now(settings))
    console = Console()
    for who, accuracy in (("student", evaluation.student_accuracy), ("teacher", evaluation.teacher_accuracy)):
        shown = "no rollout could be judged" if accuracy is None else f"{accuracy:.3f}"
        console.print(f"{who} accuracy on {evaluation.tasks} held-out tasks, policy version {version}: {shown}")
    return 0 if evaluation.student_accuracy is not None else 1


async def _evaluate_now(settings: Settings) -> tuple[Evaluation, int]:
    inference = InferenceClient(settings.inference, api_key=settings.api_key)
    evaluator = Evaluator(settings, inference)
    try:
        await evaluator.sources.probe()
        version = (await inference.policy()).version
        tasks = load_tasks(settings.tasks, seed=settings.run.seed).held_out(settings.evaluation.final_tasks)
        return await evaluator.evaluate(tasks, version=version), version
    finally:
        await evaluator.aclose()
        await inference.aclose()


def _outcome_only(feedback: FeedbackSettings) -> FeedbackSettings:
    """The one source that sets the reward: critics and people are not asked about held-out tasks."""
    kept = {name: s for name, s in feedback.sources.items() if s.role != "critique" and not s.shadow}
    return feedback.model_copy(update={"sources": kept})


def _share(successes: list[bool]) -> float | None:
    return sum(successes) / len(successes) if successes else None
