"""Attempts of the student, and of the teacher that is told something about the student's attempt, at given tasks.

Both roll out from the inference service and are judged by the outcome source: nothing is scored in this process. What
the attempts come to is in `trainer/evaluation/`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from shared.errors import DataError, InfrastructureError
from shared.feedback_client import FeedbackSources
from shared.inference_client import InferenceClient
from shared.protocol import (
    FeedbackFailure,
    FeedbackItem,
    Message,
    Prompt,
    Response,
    Rollout,
    Sampling,
    Task,
    Trajectory,
    VersionSpan,
)
from shared.settings import FeedbackSettings, Settings
from trainer.evaluation.attempts import Attempts, Key, Verdict, Who, Written
from trainer.evaluation.counts import accuracy, count
from trainer.judging import Judge
from trainer.long_prompts import refuse_long
from trainer.teacher_prompt import Context, compose, feedback_text, m_step_context

log = structlog.get_logger("evaluate")

Teacher = Literal["feedback", "m_step", "none"]
"""What the teacher is told: the feedback on the student's own attempt and nothing else; what the M-step would distil
under (a sibling's solution, else feedback, as `teacher_prompt` says); or it is not asked at all."""

_REQUEST_TOKENS = 131_072
"""Response tokens that one request may ask for: it bounds the memory of an answer and the time until it comes."""
_BATCHES_AT_ONCE = {"transformers": 2, "vllm": 4}
"""The engine transformers computes one request at a time: the second keeps it busy while the first is judged, and more
would only wait through their deadlines."""


@dataclass(frozen=True)
class Evaluation:
    """Means over tasks of the share of judged rollouts that succeeded; None where none was judged.

    `unjudged` counts the rollouts of student and teacher that were wanted and have no outcome.
    """

    student_accuracy: float | None
    teacher_accuracy: float | None
    tasks: int
    unjudged: int


class Evaluator:
    """Asks the running services. Seeded: the same policy version gives the same figures."""

    def __init__(self, settings: Settings, inference: InferenceClient) -> None:
        self.settings = settings
        self.inference = inference
        self.sources = FeedbackSources(outcome_only(settings.feedback), api_key=settings.api_key)
        self.judge = Judge(self.sources, settings.feedback)

    async def aclose(self) -> None:
        await self.sources.aclose()

    async def evaluate(self, tasks: Sequence[Task], *, version: int, purpose: str = "evaluation") -> Evaluation:
        """The figures of policy `version` on `tasks`. `purpose` stands in the ids that the source sees."""
        attempts = Attempts()
        await self.attempt(tasks, attempts, version=version, purpose=purpose)
        samples = self.settings.evaluation.samples
        student, teacher = (count(tasks, attempts, who, samples=samples) for who in ("student", "teacher"))
        unjudged = sum(one.unjudged for one in (*student, *teacher))
        return Evaluation(accuracy(student), accuracy(teacher), len(tasks), unjudged)

    async def attempt(
        self,
        tasks: Sequence[Task],
        attempts: Attempts,
        *,
        version: int,
        purpose: str = "evaluation",
        teacher: Teacher = "feedback",
    ) -> None:
        """Add to `attempts` what it lacks of `evaluation.samples` rollouts of each task and their verdicts.

        Raises ServiceUnavailable where inference or the outcome source stays away, InfrastructureError where another
        version answers, DataError where a task's own prompt is refused. A teacher's prompt that is refused has no
        verdict: the text it is told may be too long for the model.
        """
        batches = [_Batch(self, batch, attempts, version, purpose, teacher) for batch in self._batches(tasks)]
        gate = asyncio.Semaphore(_BATCHES_AT_ONCE[self.settings.inference.engine])

        async def work(batch: _Batch) -> None:
            async with gate:
                await batch.work()

        try:
            async with asyncio.TaskGroup() as group:
                for batch in batches:
                    group.create_task(work(batch))
        except BaseExceptionGroup as failed:
            error = failed.exceptions[0]
            if isinstance(error, DataError):
                # The service's own sentence does not know which of the tasks it was.
                await refuse_long(tasks, self.inference, max_tokens=self.settings.rollout.max_tokens)
            raise error from failed

    @property
    def request_rows(self) -> int:
        """Rollouts that one request may ask for."""
        by_tokens = _REQUEST_TOKENS // self.settings.rollout.max_tokens
        return max(1, min(self.settings.inference.max_batch_rows, by_tokens))

    def _batches(self, tasks: Sequence[Task]) -> Iterator[dict[int, Task]]:
        """Tasks by position, as many as one request takes with all their samples, and at least one."""
        size = max(1, self.request_rows // self.settings.evaluation.samples)
        for start in range(0, len(tasks), size):
            yield dict(enumerate(tasks[start : start + size], start))

    async def roll_out(
        self, prompts: Iterable[Sequence[Message]], *, n: int, version: int, draw: Key
    ) -> list[list[Rollout]]:
        """`n` rollouts of each prompt. `draw`, the first of them, seeds the request: another one draws otherwise."""
        settings = self.settings.evaluation
        digest = hashlib.sha256(f"{self.settings.run.seed} {draw.who} {draw.task_id} {draw.sample}".encode()).digest()
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=self.settings.rollout.max_tokens,
            seed=int.from_bytes(digest[:7]),
        )
        answer = await self.inference.rollouts([Prompt(messages=list(p)) for p in prompts], n=n, sampling=sampling)
        made = [prompt.rollouts for prompt in answer.prompts]
        other = {span.version for rollouts in made for one in rollouts for span in one.versions} - {version}
        if other:
            raise InfrastructureError(
                f"The inference service sampled with policy version {min(other)} while version {version} was being "
                "evaluated: evaluate while nothing trains against it, or evaluate a run or a model by its name."
            )
        return made


@dataclass(frozen=True)
class _Batch:
    """Some tasks, by position, from the student's rollouts to the verdicts on the teacher's."""

    evaluator: Evaluator
    tasks: dict[int, Task]
    attempts: Attempts
    version: int
    purpose: str
    teacher: Teacher

    async def work(self) -> None:
        """Each step asks for what is not there yet."""
        await self._ask_student()
        await self._judge("student")
        if self.teacher != "none":
            await self._ask_teacher(list(self._uninformed()))
            await self._judge("teacher")

    def _keys(self, who: Who) -> Iterator[tuple[int, Task, Key]]:
        for position, task in self.tasks.items():
            for sample in range(self.evaluator.settings.evaluation.samples):
                yield position, task, Key(who, task.id, sample)

    async def _ask_student(self) -> None:
        samples, rows = self.evaluator.settings.evaluation.samples, self.evaluator.request_rows
        for first in range(0, samples, rows):
            numbers = range(first, min(first + rows, samples))
            lacking = [t for t in self.tasks.values() if any(self._lacks("student", t, number) for number in numbers)]
            if not lacking:
                continue
            draw = Key("student", lacking[0].id, first)
            prompts = [task.messages for task in lacking]
            made = await self.evaluator.roll_out(prompts, n=len(numbers), version=self.version, draw=draw)
            self.attempts.add(
                [
                    _written(Key("student", task.id, number), rollout)
                    for task, rollouts in zip(lacking, made, strict=True)
                    for number, rollout in zip(numbers, rollouts, strict=True)
                ]
            )

    def _lacks(self, who: Who, task: Task, sample: int) -> bool:
        return Key(who, task.id, sample) not in self.attempts.rollouts

    async def _judge(self, who: Who) -> None:
        unjudged = [
            (f"{self.purpose}-{who}-v{self.version}-{position}", task, key)
            for position, task, key in self._keys(who)
            if key in self.attempts.rollouts and key not in self.attempts.verdicts
        ]
        items = [
            FeedbackItem(
                trajectory_id=f"{group_id}-{key.sample}",
                group_id=group_id,
                policy_version=self.version,
                task=task,
                response=_response(self.attempts.rollouts[key]),
            )
            for group_id, task, key in unjudged
        ]
        judged = await self.evaluator.judge(f"evaluation-v{self.version}", items) if items else {}
        self.attempts.add(
            [
                Verdict(**key._asdict(), success=said.success, feedback=said.feedback, failure=said.failure)
                for (_, _, key), item in zip(unjudged, items, strict=True)
                for said in [judged[item.trajectory_id]]
            ]
        )

    # ------------------------------------------------------------------------------------------------- the teacher

    def _uninformed(self) -> Iterator[_TeacherPrompt]:
        """What the teacher has not been asked yet. Where the source failed there may be feedback at the next start."""
        for _, task, key in self._keys("teacher"):
            verdict = self.attempts.verdicts[Key("student", task.id, key.sample)]
            asked = key in self.attempts.rollouts or key in self.attempts.verdicts
            if not asked and verdict.why_unjudged != "infra":
                yield self._teacher_prompt(task, key)

    def _teacher_prompt(self, task: Task, key: Key) -> _TeacherPrompt:
        settings = self.evaluator.settings.teacher_prompt
        own = self._trajectory(task, key.sample)
        if self.teacher == "m_step":
            siblings = [self._trajectory(task, n) for n in range(self.evaluator.settings.evaluation.samples)]
            context = m_step_context(own, siblings, settings, frozenset())
        else:
            context = Context(None, feedback_text(own, frozenset()), succeeded=own.success is not False)
        if not context:
            return _TeacherPrompt(key, task.messages, informed=False)
        text = compose(
            task.messages[-1].content,
            demonstration=context.demonstration,
            feedback=context.feedback,
            succeeded=context.succeeded,
            settings=settings,
        )
        return _TeacherPrompt(key, [*task.messages[:-1], Message(role="user", content=text)], informed=True)

    def _trajectory(self, task: Task, sample: int) -> Trajectory:
        """The student's attempt, as far as a teacher's prompt is made of it."""
        key = Key("student", task.id, sample)
        written, verdict = self.attempts.rollouts[key], self.attempts.verdicts[key]
        span = VersionSpan(version=self.version, start=0, end=0)
        reason = written.finish_reason
        return Trajectory(
            trajectory_id=f"evaluation-{sample}",
            rollout=Rollout(text=written.text, token_ids=[], logprobs=[], finish_reason=reason, versions=[span]),
            feedback=verdict.feedback,
            success=verdict.success,
        )

    async def _ask_teacher(self, prompts: Sequence[_TeacherPrompt]) -> None:
        rows = self.evaluator.request_rows
        for start in range(0, len(prompts), rows):
            await self._ask_teacher_once(prompts[start : start + rows])

    async def _ask_teacher_once(self, prompts: Sequence[_TeacherPrompt]) -> None:
        """One request; where it is refused, halves of it, down to the prompts that are."""
        messages = [prompt.messages for prompt in prompts]
        try:
            made = await self.evaluator.roll_out(messages, n=1, version=self.version, draw=prompts[0].key)
        except DataError as error:
            if len(prompts) > 1:
                middle = len(prompts) // 2
                await self._ask_teacher_once(prompts[:middle])
                await self._ask_teacher_once(prompts[middle:])
            else:
                self._refuse(prompts[0].key, error)
            return
        self.attempts.add(
            [
                _written(prompt.key, rollout, informed=prompt.informed)
                for prompt, (rollout,) in zip(prompts, made, strict=True)
            ]
        )

    def _refuse(self, key: Key, error: DataError) -> None:
        log.warning("a prompt of the teacher's was refused", task=key.task_id, reason=str(error))
        failure = FeedbackFailure(class_="data", message=str(error))
        self.attempts.add([Verdict(**key._asdict(), failure=failure)])


@dataclass(frozen=True)
class _TeacherPrompt:
    """What the teacher is asked in place of attempt `key`; `informed` if it is told more than the question."""

    key: Key
    messages: Sequence[Message]
    informed: bool


def outcome_only(feedback: FeedbackSettings) -> FeedbackSettings:
    """The one source that sets the reward: critics and people are not asked about held-out tasks."""
    kept = {name: s for name, s in feedback.sources.items() if s.role != "critique" and not s.shadow}
    return feedback.model_copy(update={"sources": kept})


def _written(key: Key, rollout: Rollout, *, informed: bool = False) -> Written:
    return Written(
        **key._asdict(),
        text=rollout.text,
        finish_reason=rollout.finish_reason,
        tokens=len(rollout.token_ids),
        informed=informed,
    )


def _response(written: Written) -> Response:
    return Response(text=written.text, finish_reason=written.finish_reason)
