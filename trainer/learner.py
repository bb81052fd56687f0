"""The learner: queue -> batch -> algorithm -> record -> checkpoint -> acknowledge -> publish. Blind to the algorithm.

Lockstep: step k trains on the groups that policy version k made, and publishes version k + 1. A group is acknowledged
when the checkpoint that contains its effect is durable; after a crash the learner goes back to that checkpoint, and
the queue hands out again what came after it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from typing import Any, Literal

import structlog
import torch

from shared.errors import InfrastructureError
from shared.feedback_client import FeedbackSources
from shared.human_client import HumanClient
from shared.inference_client import InferenceClient
from shared.models import resolve_model
from shared.protocol import RolloutGroup, Task
from shared.settings import Settings
from shared.trajectory_queue import TrajectoryQueue
from trainer import curve
from trainer.algorithms import Algorithm, Metrics, Tools, make
from trainer.batch import Batch, BatchBuilder
from trainer.checkpoint import Checkpoints
from trainer.critiques import Critiques
from trainer.diagnosis import Diagnosis
from trainer.evaluate import Evaluator
from trainer.optimisation import Optimizer
from trainer.policy import Policy
from trainer.publisher import Publisher, make_transport
from trainer.records import collapse, evaluation_record, record_at, step_record, summary, timings_record
from trainer.run_directory import Record, RunDirectory, disk_error
from trainer.tasks import load_tasks

log = structlog.get_logger("learner")
_TAKE_S = 1.0
_WAITING_NOTE_S = 60.0


def main(settings: Settings) -> int:
    """Train to the run's last step. 0 when it is done, and after SIGTERM, which ends it after the running step."""
    if settings.learner.threads is not None:
        torch.set_num_threads(settings.learner.threads)
    torch.manual_seed(settings.run.seed)
    run = RunDirectory(settings)
    if run.finished:
        log.info("the run is already complete", directory=str(run.path))
        return 0
    asyncio.run(_main(settings, run))
    return 0


async def _main(settings: Settings, run: RunDirectory) -> None:
    learner = Learner(settings, run)
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, learner.request_stop)
    try:
        await learner.run()
    finally:
        await learner.aclose()


class Learner:
    """One run, from its newest checkpoint or from the start. Raises VPDError where it cannot go on."""

    def __init__(self, settings: Settings, run: RunDirectory) -> None:
        self.settings = settings
        self.directory = run
        self.stopping = False
        self.step = 0
        self.seconds_before = 0.0
        self.rows_trained = 0
        self.publish_s = 0.0
        self.teacher_observed_at: int | None = None
        self.started = time.monotonic()
        self.inference = InferenceClient(settings.inference, api_key=settings.api_key)
        self.evaluator = Evaluator(settings, self.inference)
        transport = make_transport(settings.inference, run.path / "policy", self.inference)
        self.publisher = Publisher(transport, self.inference, run.identity.run_id)
        self.queue = TrajectoryQueue(settings.queue, run.identity.run_id, consumer="learner-0")
        self.held: dict[int, dict[str, RolloutGroup]] = {}
        self.unacknowledged: list[str] = []
        self.tasks = load_tasks(settings.tasks, seed=settings.run.seed)
        self.checkpoints = Checkpoints(run.path / "checkpoints", keep=settings.learner.keep_checkpoints)
        self.policy = Policy(
            resolve_model(settings.model.path),
            settings.model,
            settings.learner,
            temperature=settings.rollout.temperature,
        )
        self.optimizer = Optimizer(
            self.policy,
            settings.optimizer,
            learning_rate=settings.algorithm.learning_rate,
            total_steps=settings.run.steps,
        )
        self.algorithm: Algorithm = make(settings.algorithm, Tools(self.policy, self.optimizer))
        self.diagnosis = Diagnosis(self.policy, settings.learner.diagnose_every)
        self.batches = BatchBuilder(
            settings.teacher_prompt,
            render=self.policy.render,
            max_context=self.policy.max_context,
            seed=settings.run.seed,
            shadow=frozenset(name for name, s in settings.feedback.sources.items() if s.shadow),
        )
        self.critiques = Critiques(None, run.identity.run_id, "human", window_steps=1)

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
        await self._publish()
        await self._evaluate_if_due()
        while self.step < steps and not self.stopping:
            groups = await self._groups_of_step()
            if groups is None:
                break
            await self._learn(groups)
            await self._evaluate_if_due()
        if self.step == steps:
            self._finish()
        else:
            self._checkpoint()
            log.info("stopped; starting the run again resumes it", step=self.step)

    async def _groups_of_step(self) -> list[RolloutGroup] | None:
        """All groups of this step, in the order of their prompts; None if asked to stop while waiting."""
        wanted = self.settings.rollout.prompts_per_step
        waiting_since = time.monotonic()
        while len(self.held.get(self.step, {})) < wanted:
            if self.stopping:
                return None
            taken = await asyncio.to_thread(self.queue.take, wanted, timeout_s=_TAKE_S)
            for group in taken:
                self._hold(group)
            if not taken:
                await self._publish_if_lost()
            if lost := [d for d in self.queue.dead_letters() if d.step == self.step]:
                raise InfrastructureError(
                    f"Step {self.step} cannot be completed: group {lost[0].group_id} was given up by the queue "
                    f"({lost[0].reason}). Raise queue.max_deliveries, or start over with --fresh."
                )
            if time.monotonic() - waiting_since > _WAITING_NOTE_S:
                waiting_since = time.monotonic()
                have = len(self.held.get(self.step, {}))
                log.warning("waiting for rollouts; is the collector up?", step=self.step, have=have, wanted=wanted)
        groups = self.held.pop(self.step)
        return [groups[group_id] for group_id in sorted(groups)]

    async def _publish_if_lost(self) -> None:
        """Publish the step's policy again where the service has lost it: no rollouts would come, for ever."""
        try:
            async with asyncio.timeout(_TAKE_S):
                lost = not await self.publisher.serves(self.step)
        except (TimeoutError, InfrastructureError):
            # It does not answer: the collector, who asks it for rollouts, says so when it has been patient enough.
            return
        if lost:
            log.warning("the inference service does not serve this step's policy; publishing it again", step=self.step)
            await self.publisher.publish(self.policy, self.step)

    def _hold(self, group: RolloutGroup) -> None:
        if group.step < self.step:
            # Its effect is in the checkpoint already: the crash came between checkpoint and acknowledgement.
            self.queue.ack([group.group_id])
        elif group.policy_version != group.step:
            self.queue.dead_letter(group.group_id, f"made by version {group.policy_version}, not {group.step}")
            log.warning("a group is not on-policy and is set aside", group=group.group_id)
        else:
            self.held.setdefault(group.step, {})[group.group_id] = group

    async def _learn(self, groups: Sequence[RolloutGroup]) -> None:
        started = time.monotonic()
        joined = await self.critiques.join(self.step, groups)
        batch = self.batches.build(self.step, joined.groups, joined.late)
        metrics = self.diagnosis(batch) | self.algorithm.train_step(batch)
        self.directory.write_trajectories(batch)
        await self.critiques.report(batch)
        self.rows_trained += int(metrics.get("rows_trained", 0)) + int(metrics.get("e_step/rows", 0))
        self.unacknowledged += [g.group_id for g in groups]
        metrics |= {"seconds/learn": time.monotonic() - started, "seconds/publish": self.publish_s}
        # Before the checkpoint: a run killed between the two would never record the step.
        self._record_step(batch, groups, metrics)
        self.step += 1
        if self.step % self.settings.learner.checkpoint_every == 0 or self.step == self.settings.run.steps:
            self._checkpoint()
        await self._publish()

    def _record_step(self, batch: Batch, groups: Sequence[RolloutGroup], metrics: Metrics) -> None:
        steps, depth = self.settings.run.steps, self.queue.depth()
        timings = timings_record(batch, groups, metrics, depth, steps=steps, wall_s=self._wall_s())
        # First, so that who reads a step finds its times.
        self.directory.record_timings(timings)
        self.directory.record(step_record(batch, groups, metrics, steps=steps))
        if not metrics.get("rows_trained") and not metrics.get("e_step/rows"):
            log.warning("nothing to train on: no rollout of this step had an outcome or a text to learn from")

    async def _publish(self) -> None:
        started = time.monotonic()
        await self.publisher.publish(self.policy, self.step)
        self.publish_s = time.monotonic() - started

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
        if self.algorithm.wants_teacher_accuracy and self.step < self.settings.run.steps:
            await self._observe_teacher()

    async def _observe_teacher(self) -> None:
        """Tell the algorithm the teacher's accuracy on prompts of the coming step, never held-out ones; once."""
        if self.teacher_observed_at == self.step:
            return
        record = record_at(self.directory.records(), "gate", self.step)
        if record is None:
            record = await self._evaluate("gate", self.tasks.training(self.step, self.settings.evaluation.tasks))
        if record["teacher_accuracy"] is not None:
            self.algorithm.observe_teacher(record["teacher_accuracy"])
        self.teacher_observed_at = self.step

    async def _evaluate(self, kind: Literal["evaluation", "gate"], tasks: Sequence[Task]) -> Record:
        evaluation = await self.evaluator.evaluate(tasks, version=self.step, purpose=kind)
        record = evaluation_record(kind, evaluation, self.step)
        self.directory.record(record)
        log.info("accuracy", **record)
        return record

    def _wall_s(self) -> float:
        """Seconds spent on the run, those before it was resumed included."""
        return self.seconds_before + time.monotonic() - self.started

    async def _find_human_source(self) -> None:
        """The source whose kind is human, if there is one that answers: late critique is read there."""
        sources = FeedbackSources(self.settings.feedback, api_key=self.settings.api_key)
        try:
            for name, capabilities in (await sources.probe()).items():
                if capabilities.kind == "human":
                    source = self.settings.feedback.sources[name]
                    client = HumanClient(source.url, source.api_key or self.settings.api_key)
                    window = self.settings.learner.critique_window_steps
                    run_id = self.directory.identity.run_id
                    self.critiques = Critiques(client, run_id, name, window_steps=window)
        finally:
            await sources.aclose()

    def _checkpoint(self) -> None:
        """Durable first, acknowledged second."""
        self.checkpoints.save(
            self.step,
            {
                "policy": self.policy.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "algorithm": self.algorithm.state_dict(),
                "critiques": self.critiques.state_dict(),
                "rng": torch.get_rng_state(),
                "wall_s": self._wall_s(),
                "rows_trained": self.rows_trained,
                "teacher_observed_at": self.teacher_observed_at,
            },
        )
        self.queue.ack(self.unacknowledged)
        self.unacknowledged = []

    def _restore(self) -> None:
        state: dict[str, Any] | None = self.checkpoints.load_newest()
        if state is not None:
            self.step = state["step"]
            self.policy.network.load_state_dict(state["policy"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.algorithm.load_state_dict(state["algorithm"])
            self.critiques.load_state_dict(state["critiques"])
            torch.set_rng_state(state["rng"])
            self.seconds_before = state["wall_s"]
            self.rows_trained = state["rows_trained"]
            self.teacher_observed_at = state["teacher_observed_at"]
            log.info("resumed", step=self.step)
        self.directory.forget_after(self.step)

    def _finish(self) -> None:
        path = self.directory.path
        records = self.directory.records()
        result = summary(self.settings, records, wall_s=self._wall_s(), rows_trained=self.rows_trained)
        title = f"{path.name}: {result['algorithm']}, seed {result['seed']}"
        try:
            self.policy.save(path / "model", tokenizer=True)
            curve.draw(records, path / "curve.png", title=title)
        except OSError as error:
            raise disk_error(error, path) from error
        self.directory.write_summary(result)
        for note in result["notes"]:
            log.warning(note)
        log.info("done", **{k: v for k, v in result.items() if k != "notes"})
