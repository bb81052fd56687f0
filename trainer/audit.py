"""`vpd audit`: prove from a run's files that no group was lost and none counted twice; say what was dropped and why.

Needs no service and no model. What it checks:
- the ledger is whole: no line changed, lost or put in between;
- every step counts as many groups as it should, each slot of the run is counted once at most, and once by the end; a
  slot that is not counted was dropped for good, with a reason;
- what a restart made void was counted again;
- the stored batch of a step is the one the ledger names and holds the groups it counts;
- a checkpoint is the one that was noted;
- metrics.jsonl has one line for each counted step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from shared.errors import DataError, SettingsError
from shared.prompt_slots import Slot
from trainer.batch_store import BatchStore
from trainer.checkpoint_files import CHECKPOINTS, checkpoint_digest, checkpoint_steps
from trainer.disk import read_jsonl
from trainer.ledger import Entry, counted_steps, read_ledger


@dataclass(frozen=True)
class Drop:
    """A group that was not trained on; `returned`: its prompt was sampled again."""

    group_id: str
    step: int
    reason: str
    returned: bool


@dataclass
class Audit:
    """What the ledger of a run comes to. The run is clean where `problems` is empty."""

    run: str
    steps: int = 0
    of_steps: int = 0
    groups: int = 0
    rollouts_lag: dict[int, int] = field(default_factory=dict)
    starts: int = 0
    steps_done_again: int = 0
    checkpoints: int = 0
    dropped: list[Drop] = field(default_factory=list)
    finished: bool = False
    weights: str | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main(path: Path, *, as_json: bool) -> int:
    """Print the audit of the run in `path`; 0 where it is clean, 1 where it is not. Raises SettingsError where there is
    no run."""
    found = audit(path)
    print(json.dumps({**asdict(found), "clean": not found.problems}, indent=1) if as_json else "\n".join(_lines(found)))
    return 1 if found.problems else 0


def audit(path: Path) -> Audit:
    """The audit of the run in `path`. Raises SettingsError where there is no run."""
    if not (path / "settings.json").is_file():
        raise SettingsError(f"There is no run in {path}: name a run directory, like runs/demo.")
    try:
        settings = json.loads((path / "settings.json").read_text())
        found = Audit(str(path), of_steps=settings["run"]["steps"])
        prompts_per_step = settings["rollout"]["prompts_per_step"]
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path / 'settings.json'} is damaged ({error}): the run cannot be audited.") from error
    try:
        ledger = read_ledger(path / "ledger.jsonl")
    except DataError as error:
        found.problems.append(f"The ledger is damaged: {error}")
        return found
    if not ledger.entries:
        found.problems.append("There is no ledger: the run was made without one, or it was deleted.")
        return found
    if ledger.torn:
        found.notes.append("The ledger's last line was torn by a crash; the next start cuts it off.")
    counted = counted_steps(ledger.entries)
    _count(found, ledger.entries, counted)
    found.problems += [
        *_steps_in_order(found, counted),
        *_slots_once(found, counted, prompts_per_step),
        *_nothing_void_is_lost(found, ledger.entries, counted),
        *_batches(found, path, ledger.entries, counted),
        *_checkpoints(found, path, ledger.entries),
        *_metrics(path, counted),
    ]
    return found


def _count(found: Audit, entries: Sequence[Entry], counted: dict[int, list[str]]) -> None:
    trained = [e for e in entries if e["kind"] == "step"]
    last = {e["step"]: e for e in trained if e["step"] in counted}
    lags = Counter(step - version for step, e in last.items() for version in e["versions"])
    checkpoints = [e for e in entries if e["kind"] == "checkpoint"]
    found.steps = len(counted)
    found.groups = sum(map(len, counted.values()))
    found.rollouts_lag = {lag: lags[lag] for lag in sorted(lags)}
    found.starts = sum(e["kind"] == "start" for e in entries)
    found.steps_done_again = len(trained) - len(counted)
    found.checkpoints = len(checkpoints)
    found.weights = checkpoints[-1]["weights"] if checkpoints else None
    found.finished = any(e["kind"] == "finished" for e in entries)
    found.dropped = [
        Drop(e["group_id"], e["step"], e["reason"], e["returned"]) for e in entries if e["kind"] == "dropped"
    ]


def _steps_in_order(found: Audit, counted: dict[int, list[str]]) -> Iterator[str]:
    for step, after in pairwise([-1, *sorted(counted)]):
        if after != step + 1:
            yield f"Steps {step + 1} to {after - 1} are not in the ledger."
    if found.finished and found.steps != found.of_steps:
        yield f"The run is complete after {found.steps} steps, and should have {found.of_steps}."


def _slots_once(found: Audit, counted: dict[int, list[str]], prompts_per_step: int) -> Iterator[str]:
    """Each slot at most once; by the end each once, or dropped for good."""
    times: Counter[tuple[int, int]] = Counter()
    gone = {drop.group_id for drop in found.dropped}
    for step, group_ids in counted.items():
        for group_id in group_ids:
            slot = Slot.parse(group_id)
            if slot is None or slot.index >= prompts_per_step:
                yield f"Step {step} counts {group_id}, which is no prompt of this run."
                continue
            times[slot.step, slot.index] += 1
            if group_id in gone:
                yield f"Step {step} counts {group_id}, which was dropped."
    for (step, index), count in times.items():
        if count > 1:
            yield f"Prompt {index} of step {step} was counted {count} times."
    given_up = {(s.step, s.index) for d in found.dropped if not d.returned and (s := Slot.parse(d.group_id))}
    due = found.of_steps if found.finished else 0
    for step in range(due):
        for index in range(prompts_per_step):
            if not times[step, index] and (step, index) not in given_up:
                yield f"Prompt {index} of step {step} was never counted, and no drop says why."


def _nothing_void_is_lost(found: Audit, entries: Sequence[Entry], counted: dict[int, list[str]]) -> Iterator[str]:
    """A step that a restart made void is done again, from its stored batch if it can be read."""
    if found.finished:
        for step, groups in counted_steps(entries, with_void=True).items():
            if step not in counted and groups:
                yield f"Step {step} was made void by a restart and never done again."


def _batches(found: Audit, path: Path, entries: Sequence[Entry], counted: dict[int, list[str]]) -> Iterator[str]:
    store = BatchStore(path / "batches")
    named = {e["step"]: e["batch"] for e in entries if e["kind"] == "step"}
    stored = set(store.steps())
    if missing := [step for step in counted if step not in stored]:
        # learner.keep_batches lets the oldest go; one in between is a loss.
        if max(missing) > min(stored, default=max(missing) + 1):
            yield f"The stored batch of step {max(missing)} is missing."
        else:
            found.notes.append(f"The batches of the first {len(missing)} steps are not kept (learner.keep_batches).")
    for step in sorted(stored & counted.keys()):
        if store.digest(step) != named[step]:
            yield f"The stored batch of step {step} is not the one that was trained on."
            continue
        batch = store.read_if_whole(step)
        if batch is None or [g.group_id for g in batch.groups] != counted[step]:
            yield f"The stored batch of step {step} does not hold the groups that the ledger counts."


def _checkpoints(found: Audit, path: Path, entries: Sequence[Entry]) -> Iterator[str]:
    noted = {e["step"]: e["sha256"] for e in entries if e["kind"] == "checkpoint"}
    for step in checkpoint_steps(path / CHECKPOINTS):
        if step not in noted:
            found.notes.append(f"The checkpoint of step {step} is not noted yet; the next start does so.")
        elif checkpoint_digest(path / CHECKPOINTS, step) != noted[step]:
            yield f"The checkpoint of step {step} is not the one that was saved."


def _metrics(path: Path, counted: dict[int, list[str]]) -> Iterator[str]:
    lines = Counter(r["step"] for r in read_jsonl(path / "metrics.jsonl") if r["kind"] == "step")
    for step in counted:
        # The step's line is written after the ledger's: a run that was killed between the two lacks it.
        if lines[step] != 1 and not (lines[step] == 0 and step == max(counted)):
            yield f"metrics.jsonl has {lines[step]} lines for step {step}."


def _lines(found: Audit) -> Iterator[str]:
    state = "complete" if found.finished else f"{found.steps} of {found.of_steps} steps so far"
    yield f"{found.run}: {state}"
    yield f"  counted      {found.groups} groups in {found.steps} steps, each once"
    lags = ", ".join(f"{count} groups {lag} behind" for lag, count in found.rollouts_lag.items())
    yield f"  policy lag   {lags or 'nothing counted yet'}"
    yield f"  starts       {found.starts}; {found.steps_done_again} steps were done again after a stop"
    yield f"  checkpoints  {found.checkpoints} saved; weights of the last {(found.weights or 'none')[:16]}"
    yield f"  dropped      {len(found.dropped)} groups"
    for drop in found.dropped:
        again = "sampled again" if drop.returned else "left out"
        yield f"    {drop.group_id} at step {drop.step}: {drop.reason}; its prompt was {again}"
    yield from (f"  note: {note}" for note in found.notes)
    yield from (f"  PROBLEM: {problem}" for problem in found.problems)
    yield "Clean: nothing was lost and nothing counted twice." if not found.problems else "NOT CLEAN."
