"""metrics.jsonl and timings.jsonl in memory: one record for each kind and step, the last one written."""

from __future__ import annotations

from pathlib import Path

from shared.jsonl_tail import JsonlTail, Record

TIMINGS = "timings"
_ORDER = {"evaluation": 0, "gate": 1, "step": 2}
"""An evaluation or a gate at step k is of the policy before that step."""


class Records:
    """The records of one file, in the order of their steps. `kind` is that of records that name none."""

    def __init__(self, path: Path, kind: str | None = None) -> None:
        self._tail = JsonlTail(path)
        self._kind = kind
        self._by_key: dict[tuple[int, int, str], Record] = {}
        self._sorted: list[Record] | None = []

    @property
    def position(self) -> str:
        """Up to where the file was read; a `JsonlTail` may go on from there."""
        return self._tail.position

    def all(self) -> list[Record]:
        """The records as they are in the file now."""
        read = self._tail.read()
        if read.replaced:
            self._by_key.clear()
        for record in read.records:
            if (key := self._key(record)) is not None:
                self._by_key[key] = record
        if read.replaced or read.records or self._sorted is None:
            self._sorted = [self._by_key[key] for key in sorted(self._by_key)]
        return list(self._sorted)

    def _key(self, record: Record) -> tuple[int, int, str] | None:
        kind, step = record.get("kind", self._kind), record.get("step")
        if not isinstance(kind, str) or type(step) is not int:
            return None
        return step, _ORDER.get(kind, len(_ORDER)), kind
