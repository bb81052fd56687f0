"""MLflow, by a tracking server.

The run there is the one whose tag `vpd.run_id` is ours. A figure has the same step, time and value each time it is
sent, and the server's database keeps one of those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from trainer.trackers.base import HTTP_TIMEOUT_S
from trainer.trackers.rows import Row, TrackedRun

TAG = "vpd.run_id"
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_PARAM_CHARS = 500


class MLflow:
    """See trainer.trackers.base.Tracker."""

    def __init__(self, url: str, experiment: str) -> None:
        # An outage is ours to wait for: MLflow's own retries take minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(round(HTTP_TIMEOUT_S)))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        self._client = MlflowClient(tracking_uri=url)
        self._experiment = experiment

    def open(self, run: TrackedRun, next_step: int) -> int:
        there = self._client.get_experiment_by_name(self._experiment)
        experiment = there.experiment_id if there else self._client.create_experiment(self._experiment)
        mine = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'")
        if mine:
            self._run_id = mine[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return next_step
        made = self._client.create_run(
            experiment, start_time=round(1000 * run.started), tags={TAG: run.run_id}, run_name=run.run_id
        )
        self._run_id = made.info.run_id
        params = [Param(name, str(value)[:_PARAM_CHARS]) for name, value in run.settings.items()]
        for first in range(0, len(params), _PARAMS_A_CALL):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_A_CALL])
        return 0

    def send(self, rows: Sequence[Row]) -> None:
        metrics = [metric for row in rows for metric in _metrics(row)]
        for first in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _METRICS_A_CALL])

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


def _metrics(row: Row) -> Iterator[Metric]:
    for name, value in row.figures.items():
        yield Metric(name, value, round(1000 * row.time), row.step)
