"""`vpd replay`: do a step of a run again from its stored batch, every service off, and compare what comes out.

The weights before the step are those of the newest kept checkpoint at or before it, or the initial model's; the steps
in between are done again from their stored batches as well. On the machine of the run, with as many threads, every
figure of the step (losses, gradient norms, KL) is the recorded one to the last bit, and so are the weights of a
checkpoint after it. One process replays what several ranks have trained: then to rounding, and the weights, of which
only a digest is recorded, are not compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from shared.errors import DataError, SettingsError
from shared.load_settings import resolve_settings
from shared.settings import Settings
from trainer.batch_store import BatchStore, StepBatch
from trainer.checkpoint import Checkpoints, of_this_version
from trainer.checkpoint_files import CHECKPOINTS
from trainer.disk import read_jsonl
from trainer.ledger import read_ledger
from trainer.records import record_at, step_record
from trainer.run_directory import Record, as_written
from trainer.training import Training

_ROUNDING = 1e-4
"""How far figures of one process may be from those of several ranks, relative or absolute."""


@dataclass(frozen=True)
class Replay:
    """Step `step` done again: the recorded figures that differ, by name, as (recorded, replayed)."""

    step: int
    from_step: int
    record: Record
    different: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    weights: str = ""
    recorded_weights: str | None = None
    to_rounding: bool = False

    @property
    def identical(self) -> bool:
        return not self.different and (self.to_rounding or self.recorded_weights in (None, self.weights))


def main(path: Path, *, step: int, as_json: bool) -> int:
    """Print the replay of `step` of the run in `path`; 0 where all is identical, 1 where not."""
    found = replay(path, step, console=Console(stderr=True))
    if as_json:
        print(json.dumps({**asdict(found), "identical": found.identical}, indent=1))
    else:
        print("\n".join(_lines(found)))
    return 0 if found.identical else 1


def replay(path: Path, step: int, *, console: Console) -> Replay:
    """Raises SettingsError where there is no such run or step or one process cannot repeat it, DataError where a stored
    batch that it takes is gone."""
    settings = _settings(path)
    records = read_jsonl(path / "metrics.jsonl")
    recorded = _recorded(path, records, step)
    rounded = _several_ranks(path)
    if rounded and settings.model.lora is not None and settings.model.lora.dropout > 0:
        raise SettingsError(
            f"The run in {path} was trained by several ranks with model.lora.dropout, which draws otherwise on each of "
            "them: one process cannot replay it."
        )
    if settings.learner.threads is not None:
        torch.set_num_threads(settings.learner.threads)
    training = Training(settings)
    state = Checkpoints(path / CHECKPOINTS, keep=1).load_newest(up_to=step)
    if state is not None:
        with of_this_version(path):
            training.load_state_dict(state)
    begin, observed_at = (state["step"], state["teacher_observed_at"]) if state is not None else (0, None)
    store = BatchStore(path / "batches")
    record: Record = {}
    for number in track(range(begin, step + 1), description=f"Steps {begin} to {step}", console=console):
        gate = record_at(records, "gate", number)
        if gate is not None and gate["teacher_accuracy"] is not None and number != observed_at:
            training.observe_teacher(gate["teacher_accuracy"])
        stored = _stored(store, number)
        batch, metrics = training.step(stored)
        record = step_record(batch, stored.groups, metrics, steps=settings.run.steps)
    replayed = as_written(record)
    names = [*recorded, *(name for name in replayed if name not in recorded)]
    pairs = {name: (recorded.get(name), replayed.get(name)) for name in names}
    different = {name: pair for name, pair in pairs.items() if not _same(*pair, to_rounding=rounded)}
    weights, recorded_weights = training.weights_digest(), _recorded_weights(path, step + 1)
    return Replay(step, begin, replayed, different, weights, recorded_weights, rounded)


def _settings(path: Path) -> Settings:
    if not (path / "settings.json").is_file():
        raise SettingsError(f"There is no run in {path}: name a run directory, like runs/demo.")
    return resolve_settings([path / "settings.json"], [], {}).settings


def _recorded(path: Path, records: Sequence[Record], step: int) -> Record:
    steps = [r for r in records if r["kind"] == "step"]
    found = next((r for r in steps if r["step"] == step), None)
    if found is None:
        done = f"has done steps 0 to {steps[-1]['step']}" if steps else "has done no step yet"
        raise SettingsError(f"--step {step}: the run in {path} {done}.")
    return found


def _stored(store: BatchStore, step: int) -> StepBatch:
    stored = store.read(step)
    if stored is None:
        raise DataError(
            f"The batch of step {step} is not stored in {store.directory} (learner.keep_batches lets old ones go): "
            "only steps after a kept checkpoint can be replayed."
        )
    return stored


def _several_ranks(path: Path) -> bool:
    """Whether the run was ever trained by several ranks."""
    return any(e.get("ranks", 1) > 1 for e in read_ledger(path / "ledger.jsonl").entries if e["kind"] == "start")


def _same(recorded: Any, replayed: Any, *, to_rounding: bool) -> bool:
    if to_rounding and isinstance(recorded, float) and isinstance(replayed, float):
        return math.isclose(recorded, replayed, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(recorded == replayed)


def _recorded_weights(path: Path, step: int) -> str | None:
    """The digest of the weights after `step` steps, if a checkpoint was saved then."""
    entries = read_ledger(path / "ledger.jsonl").entries
    noted = [e["weights"] for e in entries if e["kind"] == "checkpoint" and e["step"] == step]
    return noted[-1] if noted else None


def _lines(found: Replay) -> Iterator[str]:
    yield f"Step {found.step}, replayed from the weights after {found.from_step} steps:"
    same = "equal to rounding" if found.to_rounding else "identical"
    for name, value in found.record.items():
        if isinstance(value, float):
            recorded = found.different[name][0] if name in found.different else None
            yield f"  {name:<34} {value!r:<24} " + (same if name not in found.different else f"recorded {recorded!r}")
    if found.recorded_weights is not None and not found.to_rounding:
        same = "identical" if found.recorded_weights == found.weights else f"recorded {found.recorded_weights[:16]}"
        yield f"  {'weights after the step':<34} {found.weights[:16]:<24} {same}"
    if found.identical and found.to_rounding:
        yield f"Equal: all {len(found.record)} figures of the step, to rounding, as several ranks trained it."
    elif found.identical:
        yield f"Identical: all {len(found.record)} figures of the step, to the last bit."
    else:
        yield f"DIFFERENT: {', '.join(found.different) or 'the weights'}. Another machine, torch or number of threads?"
