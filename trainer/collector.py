"""The collector: prompts -> rollouts -> feedback -> queue. It knows no tensor and no algorithm.

Lockstep: it waits for policy version k, samples the groups of training step k with it in one request, asks the
feedback sources about every rollout, publishes the groups, and waits for version k + 1. Ids and seeds depend on the
run and the step alone, so a collector that is killed and started again makes the same groups, which the queue knows.

Overlapped: any number of collectors reserve prompt slots, as far ahead of the policy version as `max_policy_lag`
allows, and sample them with whatever version is served. A slot whose collector dies is reserved by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import structlog

from shared.feedback_client import FeedbackSources, Judgement
from shared.inference_client import InferenceClient
from shared.prompt_slots import Slot
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
from trainer.judging import Judge, probe
from trainer.long_prompts import leave_out_long
from trainer.patience import patiently
from trainer.tasks import TaskSet, load_tasks

log = structlog.get_logger("collector")
_POLL_S = 5.0
_SLOTS_POLL_S = 0.2
COLLECTOR_NAME = "VPD_COLLECTOR_NAME"


def main(settings: Settings) -> int:
    """Collect until the run's last policy version is published; 0 also after SIGTERM, which leaves the running step to
    the next start."""
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
    """Raises ServiceUnavailable where a source, the inference service or the queue stays away longer than it may.

    `name` is its own among the collectors of the run, and the same when it is started again.
    """

    def __init__(self, settings: Settings, *, name: str | None = None) -> None:
        self.settings = settings
        self.name = name or os.environ.get(COLLECTOR_NAME) or f"collector-{socket.gethostname()}"
        self.tasks: TaskSet = load_tasks(settings.tasks, seed=settings.run.seed)
        self.inference = InferenceClient(settings.inference, api_key=settings.api_key)
        self.sources = FeedbackSources(settings.feedback, api_key=settings.api_key)
        per_step = settings.rollout.prompts_per_step * settings.rollout.samples_per_prompt
        self.judge = Judge(self.sources, settings.feedback, rollouts_per_step=per_step)
        self.seen: tuple[str, int] | None = None
        self.waiting_since = time.monotonic()

    async def aclose(self) -> None:
        self.judge.log_totals()
        await self.sources.aclose()
        await self.inference.aclose()

    async def run(self) -> None:
        await self.inference.wait_ready(timeout_s=self.settings.inference.timeout_s)
        self.tasks = await leave_out_long(self.tasks, self.inference, max_tokens=self.settings.rollout.max_tokens)
        await probe(self.sources, self.settings.feedback)
        if self.settings.rollout.mode == "overlapped":
            await self._run_ahead()
        else:
            await self._run_in_lockstep()

    # ------------------------------------------------------------------------------------------------------- lockstep

    async def _run_in_lockstep(self) -> None:
        published: list[RolloutGroup] = []
        async for state, changed in self._policies(wait_s=_POLL_S):
            if not changed:
                await self._publish_lost(published)
                continue
            groups = await self.collect(state)
            if groups is None:
                self.seen = None
                await asyncio.sleep(0.2)
            else:
                published = groups

    async def _policies(self, *, wait_s: float) -> AsyncIterator[tuple[PolicyState, bool]]:
        """What a learner has published, and whether it is another than before: at once if so, else every `wait_s`
        seconds. Ends with the run's last version."""
        first = True
        patience = time.monotonic() + self.settings.inference.timeout_s
        while True:
            state = await self.inference.policy(unlike=self.seen, wait_s=wait_s)
            if state.run_id is None:
                await asyncio.sleep(0.2)
                continue
            changed = (state.run_id, state.version) != self.seen
            self.seen = (state.run_id, state.version)
            if state.version < self.settings.run.steps:
                yield state, changed
            elif changed and not first:
                log.info("the run's last policy version is published", version=state.version)
                return
            elif time.monotonic() > patience:
                # A last version at the start may be of the run before: the learner beside this one publishes soon.
                return
            first = False

    async def collect(self, state: PolicyState) -> list[RolloutGroup] | None:
        """Publish the groups of one training step, sampled with the policy version of that number.

        None where the policy was exchanged meanwhile (a learner went back to its checkpoint): nothing is published.
        """
        assert state.run_id is not None
        step = state.version
        slots = [Slot(step, index) for index in range(self.settings.rollout.prompts_per_step)]
        groups = await self._roll_out(state.run_id, slots, seed=_seed(self.settings.run.seed, step))
        now = await self.inference.policy()
        sampled = {t.rollout.policy_version for group in groups for t in group.trajectories}
        if sampled != {step} or (now.run_id, now.version) != (state.run_id, step):
            # Once published, their ids would be taken, and the step's own groups refused.
            log.warning("the policy was exchanged while sampling; its rollouts are left out", step=step)
            return None
        judged = await self._with_feedback(state.run_id, groups)
        with contextlib.closing(self._queue(state.run_id)) as queue:
            for group in judged:
                await self._patiently(partial(queue.publish, group))
        self.waiting_since = time.monotonic()
        return judged

    async def _publish_lost(self, groups: Sequence[RolloutGroup]) -> None:
        """Publish again what Redis has lost since, as it may when it is killed."""
        if not groups:
            return
        with contextlib.closing(self._queue(groups[0].run_id)) as queue:
            known = await self._patiently(lambda: queue.known([g.group_id for g in groups]))
            lost = [group for group, is_known in zip(groups, known, strict=True) if not is_known]
            for group in lost:
                if await self._patiently(partial(queue.publish, group)):
                    log.warning("the queue had lost a group; it is published again", group=group.group_id)

    # ------------------------------------------------------------------------------------------------------ overlapped

    async def _run_ahead(self) -> None:
        queue: TrajectoryQueue | None = None
        try:
            async for state, _ in self._policies(wait_s=_SLOTS_POLL_S):
                assert state.run_id is not None
                if queue is None or queue.run_id != state.run_id:
                    queue = self._queue(state.run_id)
                    await self._patiently(queue.release)
                if slots := await self._reserve(queue, state.version):
                    await self._fill(queue, slots)
                    self.seen = None
        finally:
            if queue is not None:
                queue.close()

    async def _reserve(self, queue: TrajectoryQueue, version: int) -> list[Slot]:
        rollout = self.settings.rollout
        limit = min(version + rollout.max_policy_lag + 1, self.settings.run.steps) * rollout.prompts_per_step
        count = -(-rollout.prompts_per_step // rollout.collectors)
        found: list[Slot] | None = await self._patiently(
            lambda: queue.reserve(count, limit=limit, prompts_per_step=rollout.prompts_per_step)
        )
        return found or []

    async def _fill(self, queue: TrajectoryQueue, slots: Sequence[Slot]) -> None:
        """Sample and publish the groups of reserved slots, keeping them reserved meanwhile."""
        renewing = asyncio.create_task(self._renew(queue.run_id, slots))
        try:
            first = slots[0]
            seed = _seed(self.settings.run.seed, first.step, first.index, first.attempt)
            groups = await self._with_feedback(queue.run_id, await self._roll_out(queue.run_id, slots, seed=seed))
            for group in groups:
                await self._patiently(partial(queue.publish, group))
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        self.waiting_since = time.monotonic()

    async def _renew(self, run_id: str, slots: Sequence[Slot]) -> None:
        # A connection of its own: a queue is not for use by several threads.
        with contextlib.closing(self._queue(run_id)) as queue:
            while True:
                await asyncio.sleep(self.settings.queue.lease_s / 3)
                await self._patiently(lambda: queue.renew(slots))

    # -------------------------------------------------------------------------------------------------------- in steps

    async def _roll_out(self, run_id: str, slots: Sequence[Slot], *, seed: int) -> list[RolloutGroup]:
        """Groups without feedback, sampled in one request."""
        waited_s = time.monotonic() - self.waiting_since
        rollout = self.settings.rollout
        tasks = [self.tasks.training(slot.step, rollout.prompts_per_step)[slot.index] for slot in slots]
        sampling = Sampling(
            temperature=rollout.temperature, top_p=rollout.top_p, max_tokens=rollout.max_tokens, seed=seed
        )
        prompts = [Prompt(messages=list(task.messages)) for task in tasks]
        started = time.monotonic()
        answer = await self.inference.rollouts(prompts, n=rollout.samples_per_prompt, sampling=sampling)
        timings = {"rollout": time.monotonic() - started, "collector_wait": waited_s}
        return [
            _group(run_id, slot, task, sampled, timings)
            for slot, task, sampled in zip(slots, tasks, answer.prompts, strict=True)
        ]

    async def _with_feedback(self, run_id: str, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        started = time.monotonic()
        judged = await self.judge(run_id, [item for group in groups for item in _items(group)])
        spent_s = time.monotonic() - started
        return [
            group.model_copy(
                update={
                    "trajectories": [_with_feedback(t, judged[t.trajectory_id]) for t in group.trajectories],
                    "timings_s": {**group.timings_s, "feedback": spent_s},
                }
            )
            for group in groups
        ]

    def _queue(self, run_id: str) -> TrajectoryQueue:
        return TrajectoryQueue(self.settings.queue, run_id, consumer=self.name)

    async def _patiently(self, call: Callable[[], Any]) -> Any:
        return await patiently(call, max_outage_s=self.settings.queue.max_outage_s)


def _group(run_id: str, slot: Slot, task: Task, answer: PromptRollouts, timings_s: dict[str, float]) -> RolloutGroup:
    group_id = slot.group_id(run_id)
    return RolloutGroup(
        run_id=run_id,
        group_id=group_id,
        step=slot.step,
        index=slot.index,
        attempt=slot.attempt,
        policy_version=min(r.policy_version for r in answer.rollouts),
        task=task,
        prompt_token_ids=answer.prompt_token_ids,
        trajectories=[
            Trajectory(trajectory_id=f"{group_id}-r{j:02d}", rollout=rollout)
            for j, rollout in enumerate(answer.rollouts)
        ],
        timings_s=timings_s,
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


def _seed(run_seed: int, *place: int) -> int:
    """A sampling seed that depends on the run's seed and the place in the run alone."""
    text = "-".join(str(part) for part in (run_seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
