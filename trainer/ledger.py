"""The run's ledger: which groups each step was trained on, what was dropped and why, and which checkpoint holds it.

`ledger.jsonl` is only ever appended to, each line durable before the learner goes on. Every line carries a digest of
itself and of the line before, so that a line that was changed, lost or put in between is found. A last line that a
crash tore is cut off at the next start.

    start        the learner began at step `step`, on `ranks` ranks: what was counted at or after it is void and done
                 again
    step         step `step` was trained on `groups`, made by policy `versions`; `batch` is its stored batch's digest
    dropped      group `group_id` is not trained on, for `reason`; `returned`: its prompt is sampled again
    checkpoint   the checkpoint of `step`, a file with digest `sha256`, holds the effect of all steps before it;
                 `weights` is the digest of the policy's parameters
    finished     the run is complete after `step` steps

Reading and auditing need nothing but this file and those it names: `trainer/audit.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.protocol import RolloutGroup
from trainer.disk import disk_error

Entry = dict[str, Any]
_FIRST = "0" * 32


@dataclass(frozen=True)
class Read:
    """What a ledger holds: its entries, the digest of the last, and the bytes they take; `torn` bytes come after."""

    entries: list[Entry]
    chain: str
    size: int
    torn: int


class Ledger:
    """The ledger of one run, open for appending. Raises DataError where a line before the last is damaged."""

    def __init__(self, file: Path) -> None:
        self._file = file
        found = read_ledger(file)
        self._chain = found.chain
        self.counted_drops = {e["group_id"] for e in found.entries if e["kind"] == "dropped"}
        self._checkpoints = {e["step"]: e["sha256"] for e in found.entries if e["kind"] == "checkpoint"}
        if found.torn:
            with file.open("rb+") as out:
                out.truncate(found.size)
                os.fsync(out.fileno())

    def start(self, step: int, *, ranks: int = 1) -> None:
        self._append("start", step=step, ranks=ranks)

    def step(self, step: int, groups: Sequence[RolloutGroup], batch: str) -> None:
        ids, versions = [g.group_id for g in groups], [g.policy_version for g in groups]
        self._append("step", step=step, groups=ids, versions=versions, batch=batch)

    def dropped(self, group: RolloutGroup | None, group_id: str, *, step: int, reason: str, returned: bool) -> None:
        """`step` is the training step at which it was dropped; `group` is None where only its id is known."""
        version = None if group is None else group.policy_version
        self._append("dropped", step=step, group_id=group_id, version=version, reason=reason, returned=returned)
        self.counted_drops.add(group_id)

    def note_checkpoint(self, step: int, sha256: str, weights: str) -> None:
        """Once for each file."""
        if self._checkpoints.get(step) != sha256:
            self._append("checkpoint", step=step, sha256=sha256, weights=weights)
            self._checkpoints[step] = sha256

    def finished(self, step: int) -> None:
        self._append("finished", step=step)

    def _append(self, kind: str, **values: Any) -> None:
        """Durable when it returns. Raises InfrastructureError where the disk is full."""
        entry: Entry = {"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}
        chain = _digest(self._chain, entry)
        line = json.dumps({**entry, "chain": chain}) + "\n"
        try:
            _append_whole(self._file, line.encode())
        except OSError as error:
            raise disk_error(error, self._file) from error
        self._chain = chain


def _append_whole(file: Path, line: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        start = os.fstat(descriptor).st_size
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except OSError:
            # Half a line would spoil whatever is appended after it.
            os.ftruncate(descriptor, start)
            raise
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_ledger(file: Path) -> Read:
    """The entries of a ledger, without a torn last line. Raises DataError naming the first line that is damaged."""
    body = file.read_bytes() if file.exists() else b""
    whole, _, rest = body.rpartition(b"\n")
    chain, entries = _FIRST, []
    for number, entry in _lines(file, whole):
        claimed = entry.pop("chain", None)
        chain = _digest(chain, entry)
        if claimed != chain:
            raise DataError(f"{file}, line {number}: it, or a line before it, was changed or is missing.")
        entries.append(entry)
    return Read(entries, chain, len(body) - len(rest), len(rest))


def counted_steps(entries: Sequence[Entry], *, with_void: bool = False) -> dict[int, list[str]]:
    """The groups each step counts, by step. What a later start has made void is left out, or kept `with_void`."""
    counted: dict[int, list[str]] = {}
    for entry in entries:
        if entry["kind"] == "step":
            counted[entry["step"]] = entry["groups"]
        elif entry["kind"] == "start" and not with_void:
            counted = {step: groups for step, groups in counted.items() if step < entry["step"]}
    return counted


def _lines(file: Path, whole: bytes) -> Iterator[tuple[int, Entry]]:
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: it is damaged ({error}).") from error
        if not isinstance(entry, dict):
            raise DataError(f"{file}, line {number}: it is no object.")
        yield number, entry


def _digest(before: str, entry: Entry) -> str:
    return hashlib.sha256(f"{before}{json.dumps(entry, sort_keys=True)}".encode()).hexdigest()[:32]
