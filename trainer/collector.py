"""The collector: prompts -> rollouts -> feedback -> queue. It knows no tensor and no algorithm.

Lockstep: it waits for policy version k, samples the groups of training step k with it in one request, asks the
feedback sources about every rollout, publishes the groups, and waits for version k + 1. Ids and seeds depend on the
run and the step alone, so a collector that is killed and started again makes the same groups, which the queue knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import time
from collections.abc import Sequence

import structlog

from shared.feedback_client import FeedbackSources, Judgement
from shared.inference_client import InferenceClient
from shared.protocol import (
    FeedbackItem,
    PolicyState,
    Prompt,
    PromptRollouts,
    Response,
    RolloutGroup,
    Sampling,
    Task,
    Trajectory,
)
from shared.settings import Settings
from shared.trajectory_queue import TrajectoryQueue
from trainer.judging import judge
from trainer.tasks import TaskSet, load_tasks

log = structlog.get_logger("collector")
_POLL_S = 20.0


def main(settings: Settings) -> int:
    """Collect until the run's last policy version is published; 0 also after SIGTERM, between two steps."""
    return asyncio.run(_main(settings))


async def _main(settings: Settings) -> int:
    collector = Collector(settings)
    stop = asyncio.ensure_future(_terminated())
    work = asyncio.ensure_future(collector.run())
    try:
        await asyncio.wait({stop, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (stop, work):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await collector.aclose()
    return 0


async def _terminated() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await stop.wait()


class Collector:
    """Raises ServiceUnavailable where a source or the inference service stays away longer than it may."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tasks: TaskSet = load_tasks(settings.tasks, seed=settings.run.seed)
        self.inference = InferenceClient(settings.inference, api_key=settings.api_key)
        self.sources = FeedbackSources(settings.feedback, api_key=settings.api_key)

    async def aclose(self) -> None:
        await self.sources.aclose()
        await self.inference.aclose()

    async def run(self) -> None:
        await self.inference.wait_ready(timeout_s=self.settings.inference.timeout_s)
        await self.sources.probe()
        seen: tuple[str, int] | None = None
        first = True
        patience = time.monotonic() + self.settings.inference.timeout_s
        while True:
            state = await self.inference.policy(unlike=seen, wait_s=_POLL_S)
            finished = state.version >= self.settings.run.steps
            if state.run_id is None or (state.run_id, state.version) == seen:
                if finished and time.monotonic() > patience:
                    return
                await asyncio.sleep(0.2 if state.run_id is None else 0)
                continue
            seen = (state.run_id, state.version)
            if not finished:
                if not await self.collect(state):
                    seen = None
                    await asyncio.sleep(0.2)
            elif not first:
                log.info("the run's last policy version is published", version=state.version)
                return
            # A last version at the start may be of the run before: the learner beside this one publishes soon.
            first = False

    async def collect(self, state: PolicyState) -> bool:
        """Publish the groups of one training step, sampled with the policy version of that number.

        False where the policy was exchanged meanwhile (a learner went back to its checkpoint): nothing is published.
        """
        assert state.run_id is not None
        step = state.version
        tasks = self.tasks.training(step, self.settings.rollout.prompts_per_step)
        started = time.monotonic()
        answers = await self._roll_out(tasks, step)
        rolled_out = time.monotonic()
        now = await self.inference.policy()
        sampled = {rollout.policy_version for answer in answers for rollout in answer.rollouts}
        if sampled != {step} or (now.run_id, now.version) != (state.run_id, step):
            # Once published, their ids would be taken, and the step's own groups refused.
            log.warning("the policy was exchanged while sampling; its rollouts are left out", step=step)
            return False
        groups = [
            _group(state.run_id, step, i, task, answer)
            for i, (task, answer) in enumerate(zip(tasks, answers, strict=True))
        ]
        items = [item for group in groups for item in _items(group)]
        judged = await judge(self.sources, self.settings.feedback, state.run_id, items)
        timings = {"rollout": rolled_out - started, "feedback": time.monotonic() - rolled_out}
        queue = TrajectoryQueue(self.settings.queue, state.run_id, consumer="collector")
        try:
            for group in groups:
                complete = group.model_copy(
                    update={
                        "trajectories": [_with_feedback(t, judged[t.trajectory_id]) for t in group.trajectories],
                        "timings_s": timings,
                    }
                )
                await asyncio.to_thread(queue.publish, complete)
        finally:
            queue.close()
        return True

    async def _roll_out(self, tasks: Sequence[Task], step: int) -> list[PromptRollouts]:
        rollout = self.settings.rollout
        sampling = Sampling(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_tokens,
            seed=_seed(self.settings.run.seed, step),
        )
        prompts = [Prompt(messages=list(task.messages)) for task in tasks]
        answer = await self.inference.rollouts(prompts, n=rollout.samples_per_prompt, sampling=sampling)
        return answer.prompts


def _group(run_id: str, step: int, index: int, task: Task, answer: PromptRollouts) -> RolloutGroup:
    group_id = f"{run_id}-s{step:06d}-g{index:03d}"
    return RolloutGroup(
        run_id=run_id,
        group_id=group_id,
        step=step,
        policy_version=min(r.policy_version for r in answer.rollouts),
        task=task,
        prompt_token_ids=answer.prompt_token_ids,
        trajectories=[
            Trajectory(trajectory_id=f"{group_id}-r{j:02d}", rollout=rollout)
            for j, rollout in enumerate(answer.rollouts)
        ],
    )


def _items(group: RolloutGroup) -> list[FeedbackItem]:
    return [
        FeedbackItem(
            trajectory_id=t.trajectory_id,
            group_id=group.group_id,
            policy_version=group.policy_version,
            task=group.task,
            response=Response(text=t.rollout.text, finish_reason=t.rollout.finish_reason),
        )
        for t in group.trajectories
    ]


def _with_feedback(trajectory: Trajectory, judgement: Judgement) -> Trajectory:
    feedback = [*judgement.feedback, *judgement.shadow]
    return trajectory.model_copy(
        update={"feedback": feedback, "reward": judgement.reward, "success": judgement.success}
    )


def _seed(run_seed: int, step: int) -> int:
    """A sampling seed that depends on the run's seed and the step alone."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}-{step}".encode()).digest()[:7], "big")
