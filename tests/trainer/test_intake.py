"""What the learner counts and what it drops, on a real queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_builders import random_groups

from shared.errors import InfrastructureError
from shared.prompt_slots import Slot
from shared.protocol import RolloutGroup
from shared.settings import Settings
from shared.trajectory_queue import TrajectoryQueue
from trainer.intake import Intake, LockstepIntake, OverlappedIntake
from trainer.ledger import Ledger, read_ledger

PROMPTS = 2


@pytest.fixture
def queue(redis_url: str) -> Iterator[TrajectoryQueue]:
    made = TrajectoryQueue(settings(redis_url).queue, f"run-{uuid.uuid4().hex[:6]}")
    yield made
    made.drop()
    made.close()


def settings(redis_url: str, mode: str = "overlapped", lag: int = 1) -> Settings:
    rollout = {"prompts_per_step": PROMPTS, "mode": mode, "max_policy_lag": lag}
    return Settings.model_validate({"queue": {"url": redis_url, "max_outage_s": 5}, "rollout": rollout})


def intake(kind: type[Intake], queue: TrajectoryQueue, redis_url: str, file: Path, **options: Any) -> Intake:
    mode = "lockstep" if kind is LockstepIntake else "overlapped"
    return kind(settings(redis_url, mode), queue, Ledger(file), stopping=lambda: False, **options)


def made(queue: TrajectoryQueue, slot: Slot, version: int) -> RolloutGroup:
    changes = {"run_id": queue.run_id, "step": slot.step, "index": slot.index, "attempt": slot.attempt}
    named = {**changes, "group_id": slot.group_id(queue.run_id), "policy_version": version}
    return random_groups(0)[0].model_copy(update=named)


def chosen(source: Intake, step: int) -> list[Slot]:
    """What the intake takes for a step; none where nothing comes."""

    async def idle() -> None:
        source.stopping = lambda: True

    groups = asyncio.run(source.groups_of(step, idle))
    source.stopping = lambda: False
    if groups is None:
        return []
    source.count(groups)
    return [Slot.of(group) for group in groups]


def drops(file: Path) -> list[tuple[str, str, bool]]:
    entries = read_ledger(file).entries
    return [(e["group_id"], e["reason"], e["returned"]) for e in entries if e["kind"] == "dropped"]


def test_lockstep_waits_for_every_slot_of_its_step(queue: TrajectoryQueue, redis_url: str, tmp_path: Path) -> None:
    source = intake(LockstepIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    for slot in (Slot(1, 0), Slot(0, 1)):
        queue.publish(made(queue, slot, slot.step))
    assert chosen(source, 0) == []
    queue.publish(made(queue, Slot(0, 0), 0))
    assert chosen(source, 0) == [Slot(0, 0), Slot(0, 1)]


def test_lockstep_leaves_out_what_is_not_on_policy_and_says_why(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(LockstepIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    queue.publish(made(queue, Slot(3, 0), 2))
    queue.publish(made(queue, Slot(3, 1), 3))
    assert chosen(source, 3) == [Slot(3, 1)]
    name = Slot(3, 0).group_id(queue.run_id)
    assert drops(tmp_path / "ledger.jsonl") == [(name, "made by policy version 2 and not 3", False)]


def test_a_lockstep_step_whose_groups_were_all_given_up_stops_the_run_with_a_sentence(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(LockstepIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    for index in range(PROMPTS):
        queue.publish(made(queue, Slot(3, index), 2))
    with pytest.raises(InfrastructureError, match=r"Every group of step 3 was given up.*vpd audit"):
        chosen(source, 3)


def test_overlapped_takes_the_oldest_slots_that_are_there(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    for slot in (Slot(1, 1), Slot(0, 1), Slot(1, 0)):
        queue.publish(made(queue, slot, 0))
    assert chosen(source, 0) == [Slot(0, 1), Slot(1, 0)]
    queue.publish(made(queue, Slot(0, 0), 0))
    assert chosen(source, 1) == [Slot(0, 0), Slot(1, 1)]


def test_a_stale_group_is_dropped_with_its_reason_and_its_prompt_is_sampled_again(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    queue.open_slots(2 * PROMPTS)
    queue.publish(made(queue, Slot(1, 0), 0))
    queue.publish(made(queue, Slot(1, 1), 1))
    assert chosen(source, 2) == []
    stale = Slot(1, 0).group_id(queue.run_id)
    assert drops(tmp_path / "ledger.jsonl") == [(stale, "stale: made by policy version 0, 2 behind 2", True)]
    assert queue.reserve(9, limit=2 * PROMPTS, prompts_per_step=PROMPTS) == [Slot(1, 0, 1)]
    queue.publish(made(queue, Slot(1, 0, 1), 2))
    assert chosen(source, 2) == [Slot(1, 0, 1), Slot(1, 1)]


def test_a_group_that_becomes_stale_while_it_is_held_is_dropped(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    queue.open_slots(9)
    for slot in (Slot(0, 0), Slot(0, 1), Slot(1, 0)):
        queue.publish(made(queue, slot, 0))
    assert len(chosen(source, 0)) == PROMPTS
    assert chosen(source, 2) == []
    assert [name for name, _, _ in drops(tmp_path / "ledger.jsonl")] == [Slot(1, 0).group_id(queue.run_id)]


def test_a_group_of_a_version_that_was_lost_is_dropped(queue: TrajectoryQueue, redis_url: str, tmp_path: Path) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    queue.open_slots(9)
    queue.publish(made(queue, Slot(1, 0), 5))
    assert chosen(source, 2) == []
    assert "which was lost" in drops(tmp_path / "ledger.jsonl")[0][1]


def test_a_slot_that_was_counted_is_not_counted_again_whoever_delivers_it(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    for index in range(PROMPTS):
        queue.publish(made(queue, Slot(0, index), 0))
    assert len(chosen(source, 0)) == PROMPTS
    restarted = TrajectoryQueue(settings(redis_url).queue, queue.run_id)
    restored = intake(OverlappedIntake, restarted, redis_url, tmp_path / "ledger.jsonl")
    restored.load_state_dict(source.state_dict())
    queue.publish(made(queue, Slot(0, 1, 1), 0))
    assert chosen(restored, 1) == []
    asyncio.run(restored.acknowledge(1))
    restarted.close()
    assert queue.depth().pending == queue.depth().waiting == 0


def test_a_group_dropped_before_a_crash_is_given_back_after_it(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    """The ledger has the drop; the learner died before it told the queue."""
    queue.open_slots(9)
    group = made(queue, Slot(1, 0), 0)
    queue.publish(group)
    Ledger(tmp_path / "ledger.jsonl").dropped(group, group.group_id, step=2, reason="stale", returned=True)
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    assert chosen(source, 2) == []
    assert len(drops(tmp_path / "ledger.jsonl")) == 1
    assert queue.reserve(9, limit=9, prompts_per_step=PROMPTS) == [Slot(1, 0, 1)]


def test_where_every_group_is_stale_the_run_stops_with_a_sentence_instead_of_spinning(
    queue: TrajectoryQueue, redis_url: str, tmp_path: Path
) -> None:
    source = intake(OverlappedIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    queue.open_slots(99)
    for attempt in range(PROMPTS * 10):
        queue.publish(made(queue, Slot(0, 0, attempt), 0))
    with pytest.raises(InfrastructureError, match=r"20 groups were all dropped.*rollout\.max_policy_lag") as caught:
        chosen(source, 9)
    assert "\n" not in str(caught.value)


def test_only_a_checkpoint_acknowledges(queue: TrajectoryQueue, redis_url: str, tmp_path: Path) -> None:
    source = intake(LockstepIntake, queue, redis_url, tmp_path / "ledger.jsonl")
    for index in range(PROMPTS):
        queue.publish(made(queue, Slot(0, index), 0))
    assert len(chosen(source, 0)) == PROMPTS
    assert queue.depth().pending == PROMPTS
    asyncio.run(source.acknowledge(1))
    assert queue.depth().pending == 0
