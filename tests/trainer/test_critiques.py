"""Critique that comes before, during and after its trajectory's step, across restarts, and without its service.

The client is a small stand-in that keeps what it is told; the service itself is tested where it lives.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from trainer_builders import RUN_ID, group, said, trajectory

from shared.errors import ServiceUnavailable
from shared.protocol import Critique, CritiqueState, Message, RolloutGroup
from shared.settings import TeacherPromptSettings
from trainer.batch import Batch, BatchBuilder
from trainer.critiques import Critiques


@dataclass
class Desk:
    """Stands in for the human-feedback service: seq grows with every write, uses are kept."""

    states: dict[tuple[str, str], CritiqueState] = field(default_factory=dict)
    seq: int = 0
    away: bool = False

    def put(self, trajectory_id: str, text: str, identifier: str = "c1") -> None:
        self._store(trajectory_id, identifier, critique=Critique(text=text))

    def _store(self, trajectory_id: str, identifier: str, **fields: Any) -> None:
        self.seq += 1
        self.states[(trajectory_id, identifier)] = CritiqueState(
            critique_id=f"c{self.seq}",
            trajectory_id=trajectory_id,
            identifier=identifier,
            seq=self.seq,
            updated_at="2026-01-01T00:00:00Z",
            **fields,
        )

    def status(self, trajectory_id: str, identifier: str = "c1") -> tuple[str, int | None]:
        state = self.states[(trajectory_id, identifier)]
        return state.status, state.step

    async def critiques(self, after: int, run_id: str) -> list[CritiqueState]:
        if self.away:
            raise ServiceUnavailable("The human-feedback service cannot be reached.")
        return sorted((s for s in self.states.values() if s.seq > after), key=lambda s: s.seq)

    async def report_use(self, state: CritiqueState, *, used: bool, step: int, reason: str | None = None) -> None:
        if self.away:
            raise ServiceUnavailable("The human-feedback service cannot be reached.")
        fields = {"critique": state.critique, "status": "used" if used else "stale", "step": step, "reason": reason}
        self._store(state.trajectory_id, state.identifier, **fields)


class Session:
    """A learner's steps, as far as critiques are concerned."""

    def __init__(self, desk: Desk, *, window: int = 3, max_context: int = 10_000) -> None:
        self.desk = desk
        self.critiques = Critiques(cast(Any, desk), RUN_ID, "human", window_steps=window)
        self.builder = BatchBuilder(
            TeacherPromptSettings(), render=_render, max_context=max_context, seed=0, shadow=frozenset()
        )

    def step(self, number: int, groups: list[RolloutGroup] | None = None) -> Batch:
        async def run() -> Batch:
            joined = await self.critiques.join(number, groups or [plain_group(number)])
            batch = self.builder.build(number, joined.groups, joined.late)
            await self.critiques.report(batch)
            return batch

        return asyncio.run(run())


def _render(messages: list[Message]) -> list[int]:
    return [b for m in messages for b in m.content.encode()]


def name(step: int, index: int = 0) -> str:
    return f"{RUN_ID}-s{step:06d}-g000-r{index:02d}"


def plain_group(step: int, **first: Any) -> RolloutGroup:
    prefix = f"{RUN_ID}-s{step:06d}-g000"
    return group([trajectory(0, group=prefix, **first), trajectory(1, group=prefix)], step=step)


def prompt_of(batch: Batch, trajectory_id: str) -> str | None:
    row = next(r for r in batch.rows if r.trajectory.trajectory_id == trajectory_id)
    return row.m_prompt.text if row.m_prompt else None


def test_a_critique_that_came_before_its_trajectory_is_in_that_step_s_prompt() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(name(2), "mind the sign")
    session.step(0)
    session.step(1)
    assert desk.status(name(2)) == ("queued", None)
    assert "mind the sign" in (prompt_of(session.step(2), name(2)) or "")
    assert desk.status(name(2)) == ("used", 2)


def test_a_critique_that_came_after_its_step_is_trained_on_in_the_next() -> None:
    desk = Desk()
    session = Session(desk)
    session.step(0)
    desk.put(name(0), "mind the sign")
    batch = session.step(1)
    assert [r.trajectory.trajectory_id for r in batch.rows if r.late] == [name(0)]
    assert "mind the sign" in (prompt_of(batch, name(0)) or "")
    assert desk.status(name(0)) == ("used", 1)
    assert not any(r.late for r in session.step(2).rows)


def test_a_critique_the_collector_already_brought_is_reported_and_not_shown_twice() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(name(0), "mind the sign")
    batch = session.step(0, [plain_group(0, feedback=[said("mind the sign", name="human", kind="human")])])
    assert (prompt_of(batch, name(0)) or "").count("mind the sign") == 1
    assert desk.status(name(0)) == ("used", 0)


def test_a_critique_stands_beside_what_other_sources_said_and_what_people_said_before() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(name(0), "second", "c2")
    desk.put(name(0), "first", "c1")
    earlier = [said("Wrong answer", name="code"), said("zeroth", name="human", kind="human")]
    text = prompt_of(session.step(0, [plain_group(0, feedback=earlier)]), name(0)) or ""
    assert "Wrong answer\n\nzeroth\n\nfirst\n\nsecond" in text
    assert desk.status(name(0), "c1") == desk.status(name(0), "c2") == ("used", 0)


def test_a_critique_beyond_the_window_is_stale_and_says_why() -> None:
    desk = Desk()
    session = Session(desk, window=2)
    for step in range(3):
        session.step(step)
    desk.put(name(0), "too late")
    assert not any(r.late for r in session.step(3).rows)
    assert desk.status(name(0)) == ("stale", 3)
    assert "left the learner's buffer" in (desk.states[(name(0), "c1")].reason or "")


def test_a_critique_on_an_unknown_trajectory_is_stale() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(f"{RUN_ID}-no-such-thing", "hello")
    session.step(0)
    assert desk.status(f"{RUN_ID}-no-such-thing") == ("stale", 0)


def test_a_critique_whose_rollout_cannot_be_trained_on_is_stale_and_says_so() -> None:
    desk = Desk()
    session = Session(desk, max_context=40)
    desk.put(name(0), "there is no room for this in the teacher's prompt")
    session.step(0)
    assert desk.status(name(0)) == ("stale", 0)
    assert "no place" in (desk.states[(name(0), "c1")].reason or "")


def test_a_lone_success_is_trained_on_once_a_person_wrote_about_it() -> None:
    desk = Desk()
    session = Session(desk)
    assert prompt_of(session.step(0, [plain_group(0, success=True)]), name(0)) is None
    desk.put(name(0), "shorter, please")
    assert "shorter, please" in (prompt_of(session.step(1), name(0)) or "")


def test_a_service_that_is_away_costs_nothing_and_its_critiques_are_read_later() -> None:
    desk = Desk()
    session = Session(desk)
    session.step(0)
    desk.put(name(0), "mind the sign")
    desk.away = True
    assert not any(r.late for r in session.step(1).rows)
    desk.away = False
    assert [r.trajectory.trajectory_id for r in session.step(2).rows if r.late] == [name(0)]
    assert desk.status(name(0)) == ("used", 2)


def test_without_a_human_source_nothing_is_asked() -> None:
    critiques = Critiques(None, RUN_ID, "human", window_steps=1)
    joined = asyncio.run(critiques.join(0, [plain_group(0)]))
    assert joined.groups == [plain_group(0)] and joined.late == []


def restarted(session: Session) -> Session:
    again = Session(session.desk)
    again.critiques.load_state_dict(session.critiques.state_dict())
    return again


def test_what_waits_for_its_trajectory_is_not_lost_at_a_restart() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(name(3), "for later")
    session.step(0)
    desk.put(name(0), "used at once")
    session.step(1)
    session = restarted(session)
    session.step(2)
    assert "for later" in (prompt_of(session.step(3), name(3)) or "")
    assert desk.status(name(3)) == ("used", 3)


def test_what_was_used_before_a_restart_is_not_used_again() -> None:
    desk = Desk()
    session = Session(desk)
    desk.put(name(0), "mind the sign")
    session.step(0)
    restarted(session).step(1)
    assert desk.status(name(0)) == ("used", 0)


def test_a_step_that_is_done_again_after_a_crash_shows_the_same_critique() -> None:
    """The crash comes after step 1 was reported and before its checkpoint: the learner goes back to step 0's."""
    desk = Desk()
    session = Session(desk)
    session.step(0)
    checkpoint = session.critiques.state_dict()
    desk.put(name(1), "mind the sign")
    first = prompt_of(session.step(1), name(1))
    again = Session(desk)
    again.critiques.load_state_dict(checkpoint)
    assert "mind the sign" in (first or "")
    assert prompt_of(again.step(1), name(1)) == first
    assert desk.status(name(1)) == ("used", 1)
