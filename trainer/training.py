"""All that a training step changes: the policy, its optimizer, the algorithm's state. Knows no queue and no service.

The learner drives it with groups off the queue, `vpd replay` with stored ones: the same groups from the same state give
the same weights, on one machine with one number of threads and ranks to the last bit. Where there are several ranks,
each has a Training, and its methods are called on all of them, rank 0 first.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import torch

from shared.models import resolve_model
from shared.settings import Settings
from trainer.algorithms import Algorithm, Metrics, Tools, make
from trainer.algorithms.watch import TokenLifts
from trainer.batch import Batch, BatchBuilder
from trainer.batch_store import StepBatch
from trainer.diagnosis import Diagnosis
from trainer.memory import memory_errors
from trainer.optimisation import Optimizer
from trainer.policy import Policy
from trainer.ranks import ALONE, Ranks
from trainer.sharding import ShardedPolicy, whole
from trainer.tensor_file import as_bytes


class Training:
    """Starts from the initial model of the settings."""

    def __init__(self, settings: Settings, ranks: Ranks = ALONE) -> None:
        torch.manual_seed(settings.run.seed)  # every rank draws the same adapter
        self.settings = settings
        self.ranks = ranks
        self.policy = _policy(settings, ranks)
        self.optimizer = Optimizer(
            self.policy,
            settings.optimizer,
            learning_rate=settings.algorithm.learning_rate,
            total_steps=settings.run.steps,
        )
        self.algorithm: Algorithm = make(settings.algorithm, Tools(self.policy, self.optimizer, ranks))
        self.diagnosis = Diagnosis(self.policy, settings.learner.diagnose_every)
        self.batches = BatchBuilder(
            settings.teacher_prompt,
            render=self.policy.render,
            max_context=self.policy.max_context,
            seed=settings.run.seed,
            shadow=frozenset(name for name, s in settings.feedback.sources.items() if s.shadow),
        )

    def step(self, stored: StepBatch) -> tuple[Batch, Metrics]:
        """Train on a batch; its rows, and what is to be recorded of it. Raises SettingsError where memory runs out."""
        self.ranks.order("step", stored)
        # An adapter's dropout: other draws in each step and on each rank, the same when the step is done again.
        draw = random.Random(f"{self.settings.run.seed}-{stored.step}-{self.ranks.rank}")
        torch.manual_seed(draw.getrandbits(63))
        batch = self.batches.build(stored.step, stored.groups, stored.late_rows)
        with memory_errors(self.settings.model, self.settings.learner):
            return batch, self.diagnosis(batch) | self.algorithm.train_step(batch)

    @property
    def token_lifts(self) -> TokenLifts:
        """Of the last step: how much its teacher raised each response token."""
        return self.algorithm.m_step.token_lifts

    def observe_teacher(self, accuracy: float) -> None:
        """The teacher's accuracy on prompts that are about to be trained on, a share."""
        self.ranks.order("observe_teacher", accuracy)
        self.algorithm.observe_teacher(accuracy)

    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the policy's parameters; of no use but on rank 0."""
        self.ranks.order("digest")
        found = hashlib.sha256()
        for name, tensor in sorted(self.policy.network.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(as_bytes(whole(tensor)))
        return found.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the initial model and the settings."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "algorithm": self.algorithm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.algorithm.load_state_dict(state["algorithm"])


def _policy(settings: Settings, ranks: Ranks) -> Policy:
    path, temperature = resolve_model(settings.model.path), settings.rollout.temperature
    kind = Policy if ranks.mesh is None else ShardedPolicy
    return kind(path, settings.model, settings.learner, temperature=temperature, ranks=ranks)
