"""The learner: queue -> batch -> training step -> checkpoint -> acknowledge -> publish. Blind to the algorithm.

A step's batch is stored before it is trained on, and a group is acknowledged when the checkpoint that contains its
effect is durable. After a crash the learner goes back to its newest checkpoint and does the steps after it again from
their stored batches: the same weights, to the last bit. Then it goes on with what the queue hands out.

Of several ranks (`learner.ranks`) the first is the learner: what it does to weights the others do with it, and they do
nothing else (`follower.py`).

Lockstep: step k trains on the groups that policy version k made, and publishes version k + 1. Overlapped: on groups
made by versions that are at most `rollout.max_policy_lag` older.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import structlog
import torch

from shared.errors import InfrastructureError
from shared.feedback_client import FeedbackSources
from shared.human_client import HumanClient
from shared.inference_client import InferenceClient
from shared.protocol import Task
from shared.settings import Settings
from shared.trajectory_queue import TrajectoryQueue
from trainer import curve
from trainer.algorithms import Metrics
from trainer.batch import Batch
from trainer.batch_store import BatchStore, LateRow, StepBatch
from trainer.checkpoint import Checkpoints, of_this_version
from trainer.checkpoint_files import CHECKPOINTS
from trainer.critiques import Critiques
from trainer.disk import disk_error
from trainer.evaluate import Evaluator
from trainer.follower import follow
from trainer.intake import Intake, LockstepIntake, OverlappedIntake
from trainer.judging import probe
from trainer.launch import joined, launch, must_launch
from trainer.ledger import Ledger, counted_steps, read_ledger
from trainer.long_prompts import leave_out_long
from trainer.patience import patiently
from trainer.publisher import Publisher, make_transport
from trainer.ranks import ALONE, Ranks
from trainer.records import best_step, collapse, evaluation_record, record_at, step_record, summary, timings_record
from trainer.run_directory import Record, RunDirectory
from trainer.tasks import TaskSet, load_tasks
from trainer.trackers.process import tracked
from trainer.training import Training
from trainer.trajectory_records import trajectory_records

T = TypeVar("T")
log = structlog.get_logger("learner")
_ASK_S = 1.0


def main(settings: Settings) -> int:
    """Train to the run's last step. 0 when it is done, and after SIGTERM or Ctrl-C, which end it after the running
    step; a second one ends it at once."""
    if must_launch(settings):
        return launch(settings)
    if settings.learner.threads is not None:
        torch.set_num_threads(settings.learner.threads)
    with joined(settings) as ranks:
        if ranks.leads:
            _lead(settings, ranks)
        else:
            follow(settings, ranks)
    if ranks.size > 1:
        # Now and then a thread of the process group's aborts an interpreter that ends by itself.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _lead(settings: Settings, ranks: Ranks) -> None:
    run = RunDirectory(settings)
    if run.finished:
        log.info("the run is already complete", directory=str(run.path))
    else:
        with run.held(), tracked(settings.tracking, run.path):
            asyncio.run(_main(settings, run, ranks))
    ranks.dismiss()


async def _main(settings: Settings, run: RunDirectory, ranks: Ranks) -> None:
    learner = Learner(settings, run, ranks)

    def stop(number: int) -> None:
        if learner.stopping:
            # Whatever is lost is done again from the stored batches, as after a kill.
            os._exit(128 + number)
        learner.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await learner.run()
    finally:
        await learner.aclose()


class Learner:
    """One run, from its newest checkpoint or from the start. Raises VPDError where it cannot go on."""

    def __init__(self, settings: Settings, run: RunDirectory, ranks: Ranks = ALONE) -> None:
        self.settings = settings
        self.directory = run
        self.stopping = False
        self.step = 0
        self.published: int | None = None
        self.checkpointed: int | None = None
        self.best: int | None = None
        self.seconds_before = 0.0
        self.rows_trained = 0
        self.publish_s = 0.0
        self.teacher_observed_at: int | None = None
        self.started = time.monotonic()
        self.inference = InferenceClient(settings.inference, api_key=settings.api_key)
        self.evaluator = Evaluator(settings, self.inference)
        transport = make_transport(settings.inference, run.path / "policy", self.inference)
        self.publisher = Publisher(transport, self.inference, run.identity.run_id)
        self.tasks = load_tasks(settings.tasks, seed=settings.run.seed)
        self.collected: TaskSet | None = None
        self.checkpoints = Checkpoints(run.path / CHECKPOINTS, keep=settings.learner.keep_checkpoints, ranks=ranks)
        self.store = BatchStore(run.path / "batches")
        self.ledger = Ledger(run.path / "ledger.jsonl")
        self.queue = TrajectoryQueue(settings.queue, run.identity.run_id, consumer="learner-0")
        kind = OverlappedIntake if settings.rollout.mode == "overlapped" else LockstepIntake
        self.intake: Intake = kind(settings, self.queue, self.ledger, stopping=lambda: self.stopping)
        self.training = Training(settings, ranks)
        self.stored: Iterator[StepBatch] | None = None
        self.evaluated_before: list[Record] = []
        self.critiques = self._critiques(None, "human", window_steps=1)

    def request_stop(self) -> None:
        """Finish the running step, write a checkpoint, and return from `run`."""
        log.info("stopping after this step")
        self.stopping = True

    async def aclose(self) -> None:
        self.queue.close()
        if self.critiques.client is not None:
            await self.critiques.client.aclose()
        await self.evaluator.aclose()
        await self.inference.aclose()

    async def run(self) -> None:
        steps = self.settings.run.steps
        # Not /readyz: that of a service that is blocked changes only when a policy is published.
        await self.inference.policy()
        await self._find_human_source()
        self._restore()
        while not self.stopping:
            await self._evaluate_if_due()
            if self.step == steps:
                break
            again = self._stored_batch()
            batch = again or await self._live_batch()
            if batch is not None:
                await self._learn(batch, again=again is not None)
        if self.step == steps and not self.stopping:
            await self._ensure_published()
            await self._checkpoint()
            self._finish()
        else:
            await self._checkpoint()
            log.info("stopped; starting the run again resumes it", step=self.step)

    # ------------------------------------------------------------------------------------------------ a step's batch

    def _stored_batch(self) -> StepBatch | None:
        """The batch that this step was trained on before a crash; None once there is no more."""
        return next(self.stored, None) if self.stored is not None else None

    async def _live_batch(self) -> StepBatch | None:
        """The batch of this step off the queue, stored; None if asked to stop while waiting."""
        if self.stored is not None:
            await self._go_live()
        await self._ensure_published()
        groups = await self.intake.groups_of(self.step, self._while_idle)
        if groups is None:
            return None
        joined = await self.critiques.join(self.step, groups)
        late = [LateRow(group=group, trajectory_id=trajectory) for group, trajectory in joined.late]
        return StepBatch(step=self.step, groups=joined.groups, late=late)

    async def _go_live(self) -> None:
        """From here on steps are new, or, where stored batches were lost, sampled anew."""
        self.stored = None
        self.store.forget_from(self.step)
        self.evaluated_before = [r for r in self.evaluated_before if r["step"] <= self.step]
        counted = counted_steps(read_ledger(self.directory.path / "ledger.jsonl").entries, with_void=True)
        await self.intake.begin([g for step, ids in counted.items() if step >= self.step for g in ids])

    async def _while_idle(self) -> None:
        """Whatever can keep groups from coming: the service has lost the policy, Redis everything, or it is full."""
        if isinstance(self.intake, OverlappedIntake):
            await self.intake.open()
        if self.checkpointed != self.step and await self._ask_queue(self.queue.is_full):
            log.warning("Redis is full of groups that await a checkpoint; writing one now", step=self.step)
            await self._checkpoint()
        try:
            async with asyncio.timeout(_ASK_S):
                lost = not await self.publisher.serves(self.step)
        except (TimeoutError, InfrastructureError):
            # It does not answer: the collector, who asks it for rollouts, says so when it has been patient enough.
            return
        if lost:
            log.warning("the inference service does not serve this step's policy; publishing it again", step=self.step)
            await self.publisher.publish(self.training.policy, self.step)

    # --------------------------------------------------------------------------------------------------------- a step

    async def _learn(self, stored: StepBatch, *, again: bool) -> None:
        started = time.monotonic()
        digest = (self.store.digest(self.step) if again else None) or self.store.write(stored)
        batch, metrics = self.training.step(stored)
        records = trajectory_records(batch, self.training.token_lifts, self.training.policy.tokenizer)
        self.directory.write_trajectories(self.step, records)
        if again:
            self.critiques.remember(stored)
            await self.critiques.report_again(batch)
        else:
            await self.critiques.report(batch)
        self.rows_trained += int(metrics.get("rows_trained", 0)) + int(metrics.get("e_step/rows", 0))
        self.intake.count(stored.groups)
        self.ledger.step(self.step, stored.groups, digest)
        metrics |= {
            "seconds/learn": time.monotonic() - started,
            "seconds/publish": self.publish_s,
            "seconds/wait": 0.0 if again else self.intake.waited_s,
        }
        # Before the checkpoint: a run killed between the two would never record the step.
        await self._record_step(batch, stored, metrics)
        self.step += 1
        if self.step % self.settings.learner.checkpoint_every == 0 or self.step == self.settings.run.steps:
            await self._checkpoint()

    async def _record_step(self, batch: Batch, stored: StepBatch, metrics: Metrics) -> None:
        steps, depth = self.settings.run.steps, await self._ask_queue(self.queue.depth)
        timings = timings_record(batch, stored.groups, metrics, depth, steps=steps, wall_s=self._wall_s())
        # First, so that who reads a step finds its times.
        self.directory.record_timings(timings)
        self.directory.record(step_record(batch, stored.groups, metrics, steps=steps))
        if not metrics.get("rows_trained") and not metrics.get("e_step/rows"):
            log.warning("nothing to train on: no rollout of this step had an outcome or a text to learn from")

    async def _ask_queue(self, call: Callable[[], T]) -> T:
        limit_s = self.settings.queue.max_outage_s
        return await patiently(call, max_outage_s=limit_s, stopping=lambda: self.stopping)

    async def _ensure_published(self) -> None:
        if self.published != self.step:
            started = time.monotonic()
            await self.publisher.publish(self.training.policy, self.step)
            self.published, self.publish_s = self.step, time.monotonic() - started

    # ----------------------------------------------------------------------------------------------------- evaluation

    async def _evaluate_if_due(self) -> None:
        """Before the first step, after the last, and every so often; once, also if the run was killed meanwhile."""
        settings = self.settings.evaluation
        ends = self.step in (0, self.settings.run.steps)
        if not ends and self.step % settings.every != 0:
            return
        if record_at(self.directory.records(), "evaluation", self.step) is None:
            wanted = settings.final_tasks if ends else settings.tasks
            await self._evaluate("evaluation", self.tasks.held_out(wanted))
            if (sentence := collapse(self.directory.records())) is not None:
                log.warning(sentence)
            self.best = best_step(self.directory.records())
            if self.best == self.step > 0:
                await self._checkpoint()
        if self.training.algorithm.wants_teacher_accuracy and self.step < self.settings.run.steps:
            await self._observe_teacher()

    async def _observe_teacher(self) -> None:
        """Tell the algorithm the teacher's accuracy on prompts of the coming step, never held-out ones; once."""
        if self.teacher_observed_at == self.step:
            return
        record = record_at(self.directory.records(), "gate", self.step)
        if record is None:
            tasks = await self._training_tasks()
            record = await self._evaluate("gate", tasks.training(self.step, self.settings.evaluation.tasks))
        if record["teacher_accuracy"] is not None:
            self.training.observe_teacher(record["teacher_accuracy"])
        self.teacher_observed_at = self.step

    async def _training_tasks(self) -> TaskSet:
        """Those of the collectors."""
        if self.collected is None:
            most = self.settings.rollout.max_tokens
            self.collected = await leave_out_long(self.tasks, self.inference, max_tokens=most)
        return self.collected

    async def _evaluate(self, kind: Literal["evaluation", "gate"], tasks: Sequence[Task]) -> Record:
        record = record_at(self.evaluated_before, kind, self.step)
        if record is None:
            await self._ensure_published()
            evaluation = await self.evaluator.evaluate(tasks, version=self.step, purpose=kind)
            record = evaluation_record(kind, evaluation, self.step)
            log.info("accuracy", **record)
        self.directory.record(record)
        return record

    def _wall_s(self) -> float:
        """Seconds spent on the run, those before it was resumed included."""
        return self.seconds_before + time.monotonic() - self.started

    async def _find_human_source(self) -> None:
        """The source whose kind is human, if there is one that answers: late critique is read there."""
        sources = FeedbackSources(self.settings.feedback, api_key=self.settings.api_key)
        try:
            for name, capabilities in (await probe(sources, self.settings.feedback)).items():
                if capabilities.kind == "human":
                    source = self.settings.feedback.sources[name]
                    client = HumanClient(source.url, source.api_key or self.settings.api_key)
                    window = self.settings.learner.critique_window_steps
                    self.critiques = self._critiques(client, name, window_steps=window)
        finally:
            await sources.aclose()

    def _critiques(self, client: HumanClient | None, source: str, *, window_steps: int) -> Critiques:
        run_id = self.directory.identity.run_id
        return Critiques(client, run_id, source, window_steps=window_steps, max_lag=self.settings.rollout.policy_lag)

    # ---------------------------------------------------------------------------------------- checkpoints and the end

    async def _checkpoint(self) -> None:
        """Durable first, acknowledged second."""
        if self.checkpointed == self.step:
            return
        digest = self.checkpoints.save(
            self.step,
            {
                **self.training.state_dict(),
                "critiques": self.critiques.state_dict(),
                "intake": self.intake.state_dict(),
                "wall_s": self._wall_s(),
                "rows_trained": self.rows_trained,
                "teacher_observed_at": self.teacher_observed_at,
            },
            best=self.best,
        )
        self.checkpointed = self.step
        self.ledger.note_checkpoint(self.step, digest, self.training.weights_digest())
        await self.intake.acknowledge(self.step)
        self._forget_batches()

    def _forget_batches(self) -> None:
        settings = self.settings.learner
        if settings.keep_batches is not None:
            oldest = self.checkpoints.steps()[-settings.keep_checkpoints :][0]
            self.store.forget_before(min(self.step - settings.keep_batches, oldest - settings.critique_window_steps))

    def _restore(self) -> None:
        state: dict[str, Any] | None = self.checkpoints.load_newest()
        if state is not None:
            with of_this_version(self.directory.path):
                self._take_up(state)
            log.info("resumed", step=self.step)
        self.evaluated_before = self.directory.forget_after(self.step)
        self.best = best_step(self.directory.records())
        self.ledger.start(self.step, ranks=self.training.ranks.size)
        if state is not None:
            # Killed between saving it and noting it: the ledger would not know what the run went on from.
            self.ledger.note_checkpoint(self.step, self.checkpoints.digest(self.step), self.training.weights_digest())
        for step in range(max(0, self.step - self.settings.learner.critique_window_steps), self.step):
            if (stored := self.store.read_if_whole(step)) is not None:
                self.critiques.remember(stored)
        self.stored = self.store.from_step(self.step)

    def _take_up(self, state: dict[str, Any]) -> None:
        self.step = self.checkpointed = state["step"]
        self.training.load_state_dict(state)
        self.critiques.load_state_dict(state["critiques"])
        self.intake.load_state_dict(state["intake"])
        self.seconds_before = state["wall_s"]
        self.rows_trained = state["rows_trained"]
        self.teacher_observed_at = state["teacher_observed_at"]

    def _finish(self) -> None:
        path = self.directory.path
        records = self.directory.records()
        result = summary(self.settings, records, wall_s=self._wall_s(), rows_trained=self.rows_trained)
        title = f"{path.name}: {result['algorithm']}, seed {result['seed']}"
        try:
            self.training.policy.save(path / "model", tokenizer=True)
            curve.draw(records, path / "curve.png", title=title)
        except OSError as error:
            raise disk_error(error, path) from error
        self.ledger.finished(self.step)
        self.directory.write_summary(result)
        for note in result["notes"]:
            log.warning(note)
        log.info("done", **{k: v for k, v in result.items() if k != "notes"})
