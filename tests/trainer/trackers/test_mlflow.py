"""MLflow, by a real tracking server: the package `mlflow`, which the development extra leaves out for its size."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from written_run import RUN_ID, STARTED, WrittenRun

from trainer.trackers.process import deliver_now

if importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("alembic") is None:
    pytest.skip("MLflow's server is not installed: pip install mlflow==3.17.2", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--artifacts-destination", str(directory)]
    process = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 100
    while not answers(url):
        assert time.monotonic() < deadline
        assert process.poll() is None, "the server ended"
        time.sleep(0.1)
    yield url
    os.killpg(process.pid, 9)
    process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_run_that_is_sent_twice_is_there_once_with_settings_figures_and_times(server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = WrittenRun(tmp_path / "demo")
    run.go_on(7)
    overrides = [f"tracking.mlflow={server}", "tracking.flush_s=60"]
    assert deliver_now(run.path, [], overrides) == []
    # A process that was killed before it noted what it had sent.
    (run.path / "tracking.json").unlink()
    run.go_on(4)
    run.finish()
    assert deliver_now(run.path, [], overrides) == []
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("vpd")
    (there,) = client.search_runs([experiment.experiment_id])
    assert (there.info.run_name, there.info.status) == (RUN_ID, "FINISHED")
    assert there.data.params["algorithm.e_step.beta"] == "0.1"
    history = sorted(client.get_metric_history(there.info.run_id, "reward_mean"), key=lambda one: one.step)
    assert [(one.step, one.value) for one in history] == [(k, k / 80) for k in range(11)]
    assert history[3].timestamp == 1000 * (STARTED + 8)
