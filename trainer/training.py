"""All that a training step changes: the policy, its optimizer, the algorithm's state. Knows no queue and no service.

The learner drives it with groups off the queue, `vpd replay` with stored ones: the same groups from the same state give
the same weights, on one machine with one number of threads to the last bit.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from shared.models import resolve_model
from shared.settings import Settings
from trainer.algorithms import Algorithm, Metrics, Tools, make
from trainer.batch import Batch, BatchBuilder
from trainer.batch_store import StepBatch
from trainer.diagnosis import Diagnosis
from trainer.optimisation import Optimizer
from trainer.policy import Policy


class Training:
    """Starts from the initial model of the settings."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.run.seed)
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

    def step(self, stored: StepBatch) -> tuple[Batch, Metrics]:
        """Train on a batch; its rows, and what is to be recorded of it."""
        batch = self.batches.build(stored.step, stored.groups, stored.late_rows)
        return batch, self.diagnosis(batch) | self.algorithm.train_step(batch)

    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the policy's parameters."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.policy.network.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the initial model and the settings, random generators included."""
        return {
            "policy": self.policy.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.network.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.algorithm.load_state_dict(state["algorithm"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
