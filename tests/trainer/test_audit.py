"""An audit is clean for what a learner leaves, and names each thing that was lost, doubled or changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainer_builders import random_groups

from shared.errors import SettingsError
from shared.prompt_slots import Slot
from shared.protocol import RolloutGroup
from trainer.audit import audit, main
from trainer.batch_store import BatchStore, StepBatch
from trainer.ledger import Ledger

RUN_ID = "test-0a1b2c"
STEPS, PROMPTS = 4, 2


class Run:
    """A run's files as a learner writes them, step by step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        settings = {"run": {"steps": STEPS}, "rollout": {"prompts_per_step": PROMPTS}}
        (path / "settings.json").write_text(json.dumps(settings))
        (path / "checkpoints").mkdir()
        self.store = BatchStore(path / "batches")
        self.ledger = Ledger(path / "ledger.jsonl")
        self.records: list[dict[str, Any]] = []

    def start(self, step: int) -> None:
        self.ledger.start(step)
        self.records = [r for r in self.records if r["step"] < step]

    def step(self, step: int, groups: list[RolloutGroup] | None = None) -> None:
        chosen = groups if groups is not None else [made(Slot(step, i)) for i in range(PROMPTS)]
        digest = self.store.write(StepBatch(step=step, groups=chosen))
        self.ledger.step(step, chosen, digest)
        self.records.append({"kind": "step", "step": step})
        (self.path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in self.records))

    def checkpoint(self, step: int) -> None:
        import hashlib

        body = f"weights {step}".encode()
        (self.path / "checkpoints" / f"step_{step:06d}.pt").write_bytes(body)
        self.ledger.note_checkpoint(step, hashlib.sha256(body).hexdigest(), f"{step:064d}")

    def whole(self) -> Run:
        """Four steps, a crash after the third, and the end."""
        self.start(0)
        for step in range(3):
            self.step(step)
        self.checkpoint(2)
        self.start(2)
        for step in (2, 3):
            self.step(step)
        self.checkpoint(4)
        self.ledger.finished(4)
        return self

    def problems(self) -> list[str]:
        return audit(self.path).problems


def made(slot: Slot, version: int | None = None) -> RolloutGroup:
    one = random_groups(slot.step)[0]
    changes = {"index": slot.index, "attempt": slot.attempt, "group_id": slot.group_id(RUN_ID)}
    return one.model_copy(update={**changes, "policy_version": slot.step if version is None else version})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_a_run_that_was_killed_and_resumed_is_clean(run: Run) -> None:
    found = audit(run.whole().path)
    assert found.problems == [] and found.finished
    assert (found.steps, found.groups, found.starts, found.steps_done_again) == (4, 8, 2, 1)
    assert found.rollouts_lag == {0: 8} and found.weights == f"{4:064d}"


def test_a_run_that_goes_on_is_clean_so_far(run: Run) -> None:
    run.start(0)
    run.step(0)
    found = audit(run.path)
    assert found.problems == [] and not found.finished and found.steps == 1


def test_a_group_dropped_as_stale_is_named_with_its_reason_and_its_next_attempt_is_counted(run: Run) -> None:
    run.start(0)
    run.step(0)
    stale = made(Slot(1, 0), version=0)
    run.ledger.dropped(stale, stale.group_id, step=1, reason="stale: 3 behind", returned=True)
    run.step(1, [made(Slot(1, 1)), made(Slot(2, 0), version=0)])
    run.step(2, [made(Slot(1, 0, 1)), made(Slot(2, 1))])
    run.step(3)
    run.ledger.finished(4)
    found = audit(run.path)
    assert found.problems == []
    assert [(d.group_id, d.reason) for d in found.dropped] == [(stale.group_id, "stale: 3 behind")]
    assert found.rollouts_lag == {0: 6, 1: 2}


def test_a_group_given_up_for_good_is_not_missed(run: Run) -> None:
    run.start(0)
    run.ledger.dropped(None, Slot(0, 1).group_id(RUN_ID), step=0, reason="its body is damaged", returned=False)
    run.step(0, [made(Slot(0, 0))])
    for step in (1, 2, 3):
        run.step(step)
    run.ledger.finished(4)
    assert run.problems() == []


def doubled(run: Run) -> None:
    run.start(0)
    run.step(0)
    run.step(1, [made(Slot(0, 1)), made(Slot(1, 0))])


def lost(run: Run) -> None:
    run.start(0)
    for step in range(3):
        run.step(step)
    run.step(3, [made(Slot(3, 0))])
    run.ledger.finished(4)


def gap(run: Run) -> None:
    run.start(0)
    run.step(0)
    run.step(2)


def ends_early(run: Run) -> None:
    run.start(0)
    run.step(0)
    run.ledger.finished(1)


def counts_what_it_dropped(run: Run) -> None:
    run.start(0)
    run.ledger.dropped(None, Slot(0, 1).group_id(RUN_ID), step=0, reason="stale", returned=True)
    run.step(0)


def strange_prompt(run: Run) -> None:
    run.start(0)
    run.step(0, [made(Slot(0, 0)), made(Slot(0, 7))])


def never_done_again(run: Run) -> None:
    run.whole()
    run.start(3)


def batch_exchanged(run: Run) -> None:
    run.whole()
    run.store.write(StepBatch(step=1, groups=[made(Slot(1, 1)), made(Slot(1, 0))]))


def batch_of_other_groups(run: Run) -> None:
    run.start(0)
    digest = run.store.write(StepBatch(step=0, groups=[made(Slot(0, 1))]))
    run.ledger.step(0, [made(Slot(0, 0)), made(Slot(0, 1))], digest)


def batch_missing(run: Run) -> None:
    run.whole()
    (run.path / "batches" / "step_000002.zz").unlink()


def checkpoint_changed(run: Run) -> None:
    run.whole()
    (run.path / "checkpoints" / "step_000002.pt").write_bytes(b"other weights")


def metrics_doubled(run: Run) -> None:
    run.whole()
    with (run.path / "metrics.jsonl").open("a") as out:
        out.write('{"kind": "step", "step": 1}\n')


def ledger_line_removed(run: Run) -> None:
    run.whole()
    file = run.path / "ledger.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))


def ledger_deleted(run: Run) -> None:
    run.whole()
    (run.path / "ledger.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (doubled, "Prompt 1 of step 0 was counted 2 times."),
        (lost, "Prompt 1 of step 3 was never counted, and no drop says why."),
        (gap, "Steps 1 to 1 are not in the ledger."),
        (ends_early, "The run is complete after 1 steps, and should have 4."),
        (counts_what_it_dropped, f"Step 0 counts {RUN_ID}-s000000-g001, which was dropped."),
        (strange_prompt, f"Step 0 counts {RUN_ID}-s000000-g007, which is no prompt of this run."),
        (never_done_again, "Step 3 was made void by a restart and never done again."),
        (batch_exchanged, "The stored batch of step 1 is not the one that was trained on."),
        (batch_of_other_groups, "The stored batch of step 0 does not hold the groups that the ledger counts."),
        (batch_missing, "The stored batch of step 2 is missing."),
        (checkpoint_changed, "The checkpoint of step 2 is not the one that was saved."),
        (metrics_doubled, "metrics.jsonl has 2 lines for step 1."),
        (ledger_line_removed, "The ledger is damaged"),
        (ledger_deleted, "There is no ledger"),
    ],
)
def test_what_is_wrong_is_said(run: Run, damage: Callable[[Run], None], said: str) -> None:
    damage(run)
    problems = run.problems()
    assert any(said in problem for problem in problems), problems


def test_old_batches_may_be_gone_where_newer_ones_are_kept(run: Run) -> None:
    run.whole().store.forget_before(2)
    found = audit(run.path)
    assert found.problems == [] and "first 2 steps are not kept" in found.notes[0]


def test_the_exit_code_says_whether_the_run_is_clean(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.whole()
    assert main(run.path, as_json=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Clean: nothing was lost and nothing counted twice."
    (run.path / "checkpoints" / "step_000002.pt").write_bytes(b"")
    assert main(run.path, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["clean"] is False and len(told["problems"]) == 1


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no run in .*: name a run directory"):
        audit(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": {}}'])
def test_damaged_settings_are_one_sentence(run: Run, text: str) -> None:
    (run.whole().path / "settings.json").write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.json is damaged .*cannot be audited") as caught:
        audit(run.path)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_the_run_s_are_left_out(run: Run) -> None:
    run.whole()
    for name in ("batches/step_000001 (copy).zz", "batches/step_x.zz", "checkpoints/step_000002_mine.pt"):
        (run.path / name).write_bytes(b"mine")
    assert run.problems() == []
