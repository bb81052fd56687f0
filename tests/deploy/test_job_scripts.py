"""The scripts that only pods start, run without one: waiting, a job's status, what vLLM's own image is handed."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart import ROOT

from services.inference.vllm.server import WORKER_DIRECTORY

DOCKER = ROOT / "docker"


# ---------------------------------------------------------------------------------------------------------- waiting


class _Service(http.server.BaseHTTPRequestHandler):
    answers: list[int]

    def do_GET(self) -> None:
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"the model is being loaded" if status != 200 else b"ready")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[http.server.ThreadingHTTPServer]:
    """A service that is not ready twice, then is."""
    handler = type("Handler", (_Service,), {"answers": [503, 503, 200]})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def waiting(*addresses: str) -> subprocess.CompletedProcess[str]:
    hurried = "import runpy, sys, time; real = time.sleep; time.sleep = lambda s: real(s / 40); "
    code = hurried + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(DOCKER / "wait_for.py"), *addresses]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_waits_until_a_service_is_ready_and_says_once_what_for(service: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{service.server_port}/readyz"
    done = waiting(url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"waiting for {url}: 503 the model is being loaded", f"{url} answers"]
    assert service.RequestHandlerClass.answers == [200]  # type: ignore[attr-defined]


def test_it_waits_for_a_port_to_take_connections() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        timer = threading.Timer(0.5, free.listen)
        timer.start()
        done = waiting(f"tcp://127.0.0.1:{port}")
        timer.join()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"tcp://127.0.0.1:{port} answers"


# ------------------------------------------------------------------------------------------------------ a job's status

STOPPABLE = """
import signal, sys
def stop(*_):
    print("stopping", flush=True)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
signal.pause()
"""


def started(*command: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-IS", str(DOCKER / "unless_stopped.py"), *command]
    return subprocess.Popen(script, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_command_that_ends_by_itself_gives_its_status(status: int) -> None:
    with started("sh", "-c", f"exit {status}") as process:
        assert process.wait(timeout=30) == status


def test_a_command_that_is_killed_has_failed() -> None:
    with started("sh", "-c", "kill -KILL $$") as process:
        assert process.wait(timeout=30) == 128 + signal.SIGKILL


@pytest.mark.parametrize(("own", "given"), [(0, 143), (3, 3)])
def test_a_command_that_was_told_to_stop_has_not_done_its_job(own: int, given: int) -> None:
    with started(sys.executable, "-c", STOPPABLE, str(own)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        # It hears of it, and is waited for.
        assert process.stdout.readline() == "stopping\n"
        assert process.wait(timeout=30) == given


# ---------------------------------------------------------------------------------------------------- vLLM's own image


def prepared(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(DOCKER / "prepare_vllm.py"), str(directory), *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=60, check=False)


def test_vllm_s_image_is_handed_the_script_the_worker_the_model_and_the_settings(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('inference.vllm.lora_rank = 16\n[model]\npath = "builtin:rigid_math/seed2"\ndtype = "bfloat16"\n')
    engine = tmp_path / "engine"
    engine.mkdir()
    for _ in range(2):  # A pod whose container is started again does it again.
        done = prepared(engine, "--recipe", str(recipe), VPD_INFERENCE__MAX_CONTEXT="512")
        assert done.returncode == 0, done.stderr
    assert {file.name for file in (engine / "worker").glob("*.py")} == {f.name for f in WORKER_DIRECTORY.glob("*.py")}
    assert (engine / "builtin" / "rigid_math" / "model_seed2" / "config.json").is_file()
    # In the pod the directory is /opt/vpd; here a python3 that prints its arguments is vLLM.
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    start = ["sh", "-ec", ". ./vllm.env && exec sh ./vllm.sh"]
    path = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    said = subprocess.run(start, cwd=engine, env=path, capture_output=True, text=True, timeout=30, check=True).stdout
    for option in (
        "--model /opt/vpd/builtin/rigid_math/model_seed2 ",
        "--dtype bfloat16 ",
        "--max-model-len 512 ",
        "--enable-lora --max-lora-rank 16",
    ):
        assert option in said


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = prepared(tmp_path, VPD_MODEL__PATH="/models/none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model.path: there is no model directory /models/none")
    assert len(done.stderr.splitlines()) == 1
