"""Group-relative policy optimisation (arXiv 2402.03300): reward only, no text; the baseline.

    A = (r - group mean) / group std;  L = -mean over tokens of min(rho A, clip(rho, 1-0.2, 1+0.28) A)

One update a batch, so that rho starts at pi / pi_sampler of the batch's own sampler. No KL term.
"""

from __future__ import annotations

import time

import torch

from shared.settings import GRPOSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.batch import Batch, Row
from trainer.objectives.policy_gradient import clipped_surrogate, group_advantages
from trainer.policy import Sequences


class GRPO(Algorithm):
    def __init__(self, settings: GRPOSettings, tools: Tools) -> None:
        self.settings = settings
        self.policy = tools.policy
        self.optimizer = tools.optimizer

    def train_step(self, batch: Batch) -> Metrics:
        started = time.monotonic()
        judged = [r for r in batch.fresh if r.trajectory.reward is not None and r.response_ids]
        advantages = self._advantages(judged)
        moving = [(r, float(a)) for r, a in zip(judged, advantages, strict=True) if a != 0]
        metrics: Metrics = {
            "rows_trained": float(len(moving)),
            "rows_without_context": 0.0,
            "m_step/groups_without_signal": 1.0 - len(moving) / len(judged) if judged else 1.0,
        }
        if moving:
            metrics |= self._update(moving, sum(len(r.response_ids) for r in judged), batch.step)
        return metrics | {"seconds/m_step": time.monotonic() - started}

    def _advantages(self, rows: list[Row]) -> torch.Tensor:
        labels = {group: i for i, group in enumerate(dict.fromkeys(r.group.group_id for r in rows))}
        rewards = torch.tensor([float(r.trajectory.reward or 0.0) for r in rows])
        groups = torch.tensor([labels[r.group.group_id] for r in rows])
        return group_advantages(rewards, groups, normalise_std=self.settings.normalise_std)

    def _update(self, moving: list[tuple[Row, float]], tokens: int, step: int) -> Metrics:
        """`tokens` counts all judged rows, also those whose advantage is 0: they are part of the mean."""
        metrics: Metrics = {"m_step/tokens": float(tokens)}
        rows = [row for row, _ in moving]
        sequences = Sequences([r.group.prompt_token_ids for r in rows], [r.response_ids for r in rows])
        advantages = torch.tensor([a for _, a in moving], device=self.policy.device)
        drift = 0.0
        with self.optimizer.gradient_step(step, metrics, "m_step"):
            for span in self.policy.spans(sequences):
                scores = self.policy.score(sequences[span])
                logprobs = self.policy.token_logprobs(scores)
                old = torch.tensor([lp for r in rows[span] for lp in r.sampler_logprobs], device=self.policy.device)
                clips = {"clip_low": self.settings.clip_low, "clip_high": self.settings.clip_high}
                losses = clipped_surrogate(logprobs, old, advantages[span][scores.row], **clips)
                (losses.sum() / tokens).backward()
                drift += float((old - logprobs.detach()).sum())
        return metrics | {"m_step/kl_to_sampler": drift / tokens}
