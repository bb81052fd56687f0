"""Trackio: a server, or its database on this machine.

Both take an id with each row and leave out a row whose id they have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from shared.errors import ServiceUnavailable
from trainer.trackers.base import HTTP_TIMEOUT_S
from trainer.trackers.rows import Row, TrackedRun

API_VERSION = 1
WRITE_TOKEN = "TRACKIO_WRITE_TOKEN"


class TrackioServer:
    """A server, by its HTTP API. See trainer.trackers.base.Tracker."""

    def __init__(self, url: str, project: str) -> None:
        self._url, self._project = url.rstrip("/"), project
        token = os.environ.get(WRITE_TOKEN, "")
        self._http = httpx.Client(timeout=HTTP_TIMEOUT_S, headers={"x-trackio-write-token": token})

    def open(self, run: TrackedRun, next_step: int) -> int:
        answer = self._http.get(f"{self._url}/version")
        # Its pages answer 200 with HTML at every unknown path, as any other server may.
        if not answer.is_success or _json(answer).get("api_version") != API_VERSION:
            raise ServiceUnavailable(f"{self._url} is no Trackio server of API version {API_VERSION}")
        self._run = run
        return next_step

    def send(self, rows: Sequence[Row]) -> None:
        logs = [
            {"project": self._project, "run": self._run.run_id, **one}
            for one in _entries(self._run, self._project, rows)
        ]
        answer = self._http.post(
            f"{self._url}/api/bulk_log", json={"args": [], "kwargs": {"logs": logs, "hf_token": None}}
        )
        problem = _json(answer).get("error")
        if problem or not answer.is_success:
            raise ServiceUnavailable(f"{self._url} answered {answer.status_code}: {problem or 'no reason given'}")

    def close(self, *, finished: bool) -> None:
        self._http.close()


class TrackioDatabase:
    """Trackio's database on this machine. See trainer.trackers.base.Tracker."""

    def __init__(self, project: str) -> None:
        self._project = project

    def open(self, run: TrackedRun, next_step: int) -> int:
        self._run = run
        return next_step

    def send(self, rows: Sequence[Row]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        entries = list(_entries(self._run, self._project, rows))
        SQLiteStorage.bulk_log(
            project=self._project,
            run=self._run.run_id,
            run_id=self._run.run_id,
            metrics_list=[one["metrics"] for one in entries],
            steps=[one["step"] for one in entries],
            timestamps=[datetime.fromtimestamp(row.time, UTC).isoformat() for row in rows],
            log_ids=[one["log_id"] for one in entries],
            config=dict(self._run.settings),
        )

    def close(self, *, finished: bool) -> None:
        pass


def _entries(run: TrackedRun, project: str, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {
            "run_id": run.run_id,
            "metrics": dict(row.figures),
            "step": row.step,
            "config": dict(run.settings) if row is rows[0] else None,
            "log_id": f"{run.run_id}:{row.step}",
        }


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
