"""Late critique: what people write about a rollout after the collector has asked, joined to its trajectory.

Each step the learner reads what is new at the human-feedback service. A critique whose trajectory is in the batch, or
in one of the last steps, is put into that trajectory; its writer can then read at which step it was used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from shared.critique_text import critique_text
from shared.errors import VPDError
from shared.human_client import HumanClient
from shared.prompt_slots import Slot
from shared.protocol import CritiqueState, Feedback, RolloutGroup, SourceInfo, Trajectory
from trainer.batch import Batch, Row
from trainer.batch_store import StepBatch

log = structlog.get_logger("critiques")


@dataclass
class Joined:
    """Groups with critiques put in, and which trajectories of earlier steps to train on again."""

    groups: list[RolloutGroup]
    late: list[tuple[RolloutGroup, str]] = field(default_factory=list)


class Critiques:
    """Keeps the last steps' groups, and the critiques that still wait for their trajectory: up to `max_lag` steps after
    the one that its prompt stands in."""

    def __init__(
        self, client: HumanClient | None, run_id: str, source: str, *, window_steps: int, max_lag: int = 0
    ) -> None:
        self.client = client
        self.max_lag = max_lag
        self.run_id = run_id
        self.source = source
        self.recent: deque[list[RolloutGroup]] = deque(maxlen=window_steps)
        self.cursor = 0
        self.waiting: dict[tuple[str, str], CritiqueState] = {}

    async def join(self, step: int, groups: Sequence[RolloutGroup]) -> Joined:
        """Read what is new and put it where it belongs. A service that is away costs nothing but a warning."""
        await self._read_new(step)
        joined = Joined([self._with_critiques(g, step) for g in groups])
        late = []
        for position, earlier in enumerate(self.recent):
            updated = [self._with_critiques(g, step) for g in earlier]
            for before, after in zip(earlier, updated, strict=True):
                for old, new in zip(before.trajectories, after.trajectories, strict=True):
                    late += [(after, new.trajectory_id)] if old is not new else []
            self.recent[position] = updated
        joined.late = late
        self.recent.append(joined.groups)
        return joined

    def remember(self, stored: StepBatch) -> None:
        """Take in a step that was trained on before a crash, as `join` did then."""
        written_about = {row.group.group_id: row.group for row in stored.late}
        for position, earlier in enumerate(self.recent):
            self.recent[position] = [written_about.get(g.group_id, g) for g in earlier]
        self.recent.append(list(stored.groups))

    async def report_again(self, batch: Batch) -> None:
        """Tell the writers of critiques that a step done again has used; what it has not used stays waiting."""
        await self._read_new(batch.step)
        in_prompt = {row.trajectory.trajectory_id: row for row in batch.rows}
        for key, state in list(self.waiting.items()):
            row = in_prompt.get(state.trajectory_id)
            if row is not None and _prompted(row, state):
                await self._tell(state, batch.step, used=True)
                del self.waiting[key]

    async def report(self, batch: Batch) -> None:
        """Tell the writers what became of their critiques: used at this step, or stale."""
        in_prompt = {row.trajectory.trajectory_id: row for row in batch.rows}
        for key, state in list(self.waiting.items()):
            row = in_prompt.get(state.trajectory_id)
            if row is not None and _prompted(row, state):
                await self._tell(state, batch.step, used=True)
            elif row is not None:
                await self._tell(state, batch.step, used=False, reason="its rollout had no place in a teacher's prompt")
            elif (made_at := _step_of(state.trajectory_id)) is None or made_at <= batch.step - self.max_lag:
                await self._tell(state, batch.step, used=False, reason="its rollout had left the learner's buffer")
            else:
                continue
            del self.waiting[key]

    def state_dict(self) -> dict[str, int]:
        return {"cursor": min([self.cursor, *(s.seq - 1 for s in self.waiting.values())])}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.cursor = state["cursor"]

    async def _read_new(self, step: int) -> None:
        if self.client is None:
            return
        try:
            news = await self.client.critiques(self.cursor, self.run_id)
        except VPDError as error:
            log.warning("new critiques cannot be read; the run goes on without them", reason=str(error))
            return
        for state in news:
            self.cursor = max(self.cursor, state.seq)
            self.waiting.pop((state.trajectory_id, state.identifier), None)
            # A step at or after this one is to be done again, from an earlier checkpoint: its uses did not happen.
            if state.status == "queued" or (state.step is not None and state.step >= step):
                self.waiting[(state.trajectory_id, state.identifier)] = state

    def _with_critiques(self, group: RolloutGroup, step: int) -> RolloutGroup:
        trajectories = [self._with_critique(t) for t in group.trajectories]
        if all(a is b for a, b in zip(trajectories, group.trajectories, strict=True)):
            return group
        return group.model_copy(update={"trajectories": trajectories})

    def _with_critique(self, trajectory: Trajectory) -> Trajectory:
        mine = sorted(
            (s for s in self.waiting.values() if s.trajectory_id == trajectory.trajectory_id),
            key=lambda s: s.identifier,
        )
        said = "\n\n".join(f.text or "" for f in trajectory.feedback if f.source.name == self.source)
        texts = [critique_text(s.critique, trajectory.rollout.text) for s in mine]
        new = [text for text in texts if text not in said]
        if not new:
            return trajectory
        others = [f for f in trajectory.feedback if f.source.name != self.source]
        human = Feedback(
            trajectory_id=trajectory.trajectory_id,
            feedback_id=f"{trajectory.trajectory_id[:180]}:{self.source}",
            status="ok",
            text="\n\n".join([*([said] if said else []), *new]),
            source=SourceInfo(name=self.source, kind="human"),
        )
        return trajectory.model_copy(update={"feedback": [*others, human]})

    async def _tell(self, state: CritiqueState, step: int, *, used: bool, reason: str | None = None) -> None:
        assert self.client is not None
        try:
            await self.client.report_use(state, used=used, step=step, reason=reason)
        except VPDError as error:
            log.warning("a critique's use could not be reported", trajectory=state.trajectory_id, reason=str(error))


def _prompted(row: Row, state: CritiqueState) -> bool:
    prompts = [p.text for p in (row.m_prompt, row.e_prompt) if p is not None]
    said = critique_text(state.critique, row.trajectory.rollout.text)
    return any(said in text for text in prompts)


def _step_of(trajectory_id: str) -> int | None:
    slot = Slot.parse(trajectory_id.rpartition("-r")[0])
    return slot.step if slot else None
