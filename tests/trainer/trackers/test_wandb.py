"""A W&B run on disk, read back as `wandb sync` reads it: log records of 32 KiB blocks, each a protocol buffer."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written_run import RUN_ID, STARTED, WrittenRun

from trainer.trackers.process import deliver_now

messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
_BLOCK = 32_768
_HEADER = 7
_FILE_HEADER = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@pytest.fixture(autouse=True)
def _without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_a_key_the_run_is_on_disk_whole_and_once_however_often_it_went_on(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "demo")
    run.go_on(6)
    assert deliver_now(run.path, [], ["tracking.wandb=true", "tracking.flush_s=60"]) == []
    run.go_on(4)
    run.finish()
    assert deliver_now(run.path, [], ["tracking.wandb=true", "tracking.flush_s=60"]) == []
    (directory,) = (run.path / "wandb").glob("offline-run-*")
    records = list(records_of(directory / f"run-{RUN_ID}.wandb"))
    (told,) = [one.run for one in records if one.HasField("run")][:1]
    assert (told.run_id, told.project) == (RUN_ID, "vpd")
    history = [row_of(one.history) for one in records if one.HasField("history")]
    assert [row["_step"] for row in history] == list(range(11))
    assert history[7]["reward_mean"] == 7 / 80
    assert history[7]["_timestamp"] == STARTED + 16.0
    assert history[10]["evaluation/student_accuracy"] == 0.1


def records_of(file: Path) -> Iterator[Any]:
    data, position, parts = file.read_bytes(), _FILE_HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        size, kind = struct.unpack("<HB", data[position + 4 : position + _HEADER])
        parts += data[position + _HEADER : position + _HEADER + size]
        position += _HEADER + size
        if kind in (FULL, LAST):
            yield messages.Record.FromString(parts)
            parts = b""


def row_of(history: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
