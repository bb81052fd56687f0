"""From groups off the queue to the rows of a training step: each rollout with the teacher's prompts it is used under.

No tensors live here, and no algorithm: which rows an objective takes is said in `trainer/algorithms/`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shared.protocol import RolloutGroup, Trajectory
from shared.settings import TeacherPromptSettings
from trainer.teacher_prompt import Context, Render, TeacherPrompt, build, e_step_context, m_step_context


@dataclass(frozen=True)
class Row:
    """One rollout in a training step. `m_prompt` and `e_prompt` are None where it has no context for that step.

    `late` rows come from an earlier step because a person has written about them since.
    """

    group: RolloutGroup
    trajectory: Trajectory
    m_prompt: TeacherPrompt | None = None
    e_prompt: TeacherPrompt | None = None
    late: bool = False

    @property
    def success(self) -> bool | None:
        return self.trajectory.success

    @property
    def response_ids(self) -> list[int]:
        return self.trajectory.rollout.token_ids

    @property
    def sampler_logprobs(self) -> list[float]:
        return self.trajectory.rollout.logprobs


@dataclass(frozen=True)
class Batch:
    """All rows of training step `step` (0-based), siblings side by side."""

    step: int
    rows: list[Row] = field(default_factory=list)

    @property
    def fresh(self) -> list[Row]:
        """The rows sampled for this step."""
        return [row for row in self.rows if not row.late]


class BatchBuilder:
    """Renders teacher prompts and applies the negative controls."""

    def __init__(
        self, settings: TeacherPromptSettings, *, render: Render, max_context: int, seed: int, shadow: frozenset[str]
    ) -> None:
        self.settings = settings
        self.render = render
        self.max_context = max_context
        self.seed = seed
        self.shadow = shadow

    def build(self, step: int, groups: Sequence[RolloutGroup], late: Sequence[tuple[RolloutGroup, str]] = ()) -> Batch:
        """`late` names trajectories of earlier groups to train on again."""
        chosen = [(g, t, False) for g in groups for t in g.trajectories]
        chosen += [(g, t, True) for g, wanted in late for t in g.trajectories if t.trajectory_id == wanted]
        contexts = self._under_control(step, [(g, *self._contexts(g, t)) for g, t, _ in chosen])
        rows = []
        for (group, trajectory, is_late), (m_context, e_context) in zip(chosen, contexts, strict=True):
            usable = bool(trajectory.rollout.token_ids)
            row = Row(group, trajectory, late=is_late)
            if usable:
                e_prompt = self._prompt(group, trajectory, e_context) if trajectory.success is not None else None
                row = replace(row, m_prompt=self._prompt(group, trajectory, m_context), e_prompt=e_prompt)
            rows.append(row)
        return Batch(step, rows)

    def _contexts(self, group: RolloutGroup, trajectory: Trajectory) -> tuple[Context, Context]:
        arguments = (trajectory, group.trajectories, self.settings, self.shadow)
        return m_step_context(*arguments), e_step_context(*arguments)

    def _prompt(self, group: RolloutGroup, trajectory: Trajectory, context: Context) -> TeacherPrompt | None:
        if not context:
            return None
        room = self.max_context - len(trajectory.rollout.token_ids)
        return build(group.task.messages, context, settings=self.settings, render=self.render, max_tokens=room)

    def _under_control(
        self, step: int, contexts: list[tuple[RolloutGroup, Context, Context]]
    ) -> list[tuple[Context, Context]]:
        """Leave contexts as they are, drop them, give each row those of a row of another prompt, or to all rows
        the same."""
        own = [(m, e) for _, m, e in contexts]
        if self.settings.control == "none":
            return own
        if self.settings.control == "dropped":
            return [(Context(), Context())] * len(own)
        if self.settings.control == "repeated":
            first_m = next((m for m, _ in own if m), Context())
            first_e = next((e for _, e in own if e), Context())
            return [(first_m if m else m, first_e if e else e) for m, e in own]
        rng = random.Random(f"{self.seed}-{step}-shuffled")
        exchanged = []
        for group, m, e in contexts:
            others = [(m, e) for g, m, e in contexts if g.task.id != group.task.id]
            # A row keeps whether it has a context at all, so that only the content is exchanged.
            drawn_m = _draw(rng, [m for m, _ in others]) if m else m
            drawn_e = _draw(rng, [e for _, e in others]) if e else e
            exchanged.append((drawn_m, drawn_e))
        return exchanged


def _draw(rng: random.Random, contexts: Sequence[Context]) -> Context:
    """One of those that say something; an empty one where none does."""
    return rng.choice([context for context in contexts if context] or [Context()])
