"""Trackio's database and its server, both real."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cli_support import vpd
from trackio_server import TOKEN, TrackioProcess
from written_run import RUN_ID, STARTED, WrittenRun

from shared.errors import ServiceUnavailable
from tests.serving import running
from trainer.trackers.rows import RowReader, TrackedRun
from trainer.trackers.trackio import TrackioServer

pytest.importorskip("trackio")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackioProcess]:
    with TrackioProcess(tmp_path_factory.mktemp("trackio")) as process:
        yield process


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenRun:
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", TOKEN)
    return WrittenRun(tmp_path / "demo")


def test_rows_that_are_sent_again_stand_there_once(server: TrackioProcess, run: WrittenRun) -> None:
    run.go_on(6)
    tracked = TrackedRun.of(run.path)
    rows = RowReader(tracked).read()
    there = TrackioServer(server.url, "again")
    there.open(tracked, 0)
    there.send(rows)
    there.send(rows[2:])
    assert server.steps(RUN_ID, "again") == [0, 1, 2, 3, 4, 5]
    assert server.rows(RUN_ID, "again")[5]["evaluation/student_accuracy"] == 0.05


def test_a_wrong_token_is_a_problem_with_its_answer(
    server: TrackioProcess, run: WrittenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "another")
    run.go_on(1)
    tracked = TrackedRun.of(run.path)
    there = TrackioServer(server.url, "refused")
    there.open(tracked, 0)
    with pytest.raises(ServiceUnavailable, match=f"{server.url} answered 40.: .*Trackio-Write-Token"):
        there.send(RowReader(tracked).read())


def test_a_server_that_is_no_trackio_is_refused_though_it_answers_every_path(run: WrittenRun) -> None:
    async def pages(scope: dict[str, str], receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<!doctype html>"})

    with running(pages) as url, pytest.raises(ServiceUnavailable, match="no Trackio server"):
        TrackioServer(url, "vpd").open(TrackedRun.of(run.path), 0)


def test_the_database_on_this_machine_takes_each_row_once(run: WrittenRun, tmp_path: Path) -> None:
    run.go_on(6)
    for _ in range(2):
        (run.path / "tracking.json").unlink(missing_ok=True)
        done = vpd("track", str(run.path), "--set", "tracking.trackio=true", cwd=tmp_path, TRACKIO_DIR=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, "All is delivered.\n"), done.stderr
    with sqlite3.connect(tmp_path / "vpd.db") as database:
        rows = database.execute("SELECT step, timestamp FROM metrics ORDER BY step").fetchall()
    assert [step for step, _ in rows] == [0, 1, 2, 3, 4, 5]
    assert datetime.fromisoformat(rows[5][1]).timestamp() == STARTED + 12.0
