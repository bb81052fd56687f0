"""The scripts that containers start with, run without a container: the key, the entrypoint, the health check."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from compose_stack import ROOT

DOCKER = ROOT / "docker"


def run(script: str, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {"PATH": os.environ["PATH"]}
    command = ["sh", str(DOCKER / script), *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def fake_vpd(tmp_path: Path) -> Path:
    """A directory with a `vpd` that prints its arguments and the VPD_ part of its environment."""
    program = tmp_path / "bin" / "vpd"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "args: $*"\nenv | grep ^VPD_ | sort\n', encoding="utf-8")
    program.chmod(0o755)
    return program.parent


def entrypoint(fake_vpd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{fake_vpd}:{os.environ['PATH']}"}
    return run("entrypoint.sh", path | environment, "serve", "inference", "--port", "8201")


def test_the_key_is_made_and_shown_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "api_key"
    first = run("keys.sh", {"VPD_API_KEY_FILE": str(file)})
    key = file.read_text().strip()
    assert len(key) >= 32
    assert key in first.stdout
    assert file.stat().st_mode & 0o777 == 0o440
    second = run("keys.sh", {"VPD_API_KEY_FILE": str(file)})
    assert second.returncode == 0
    assert key not in second.stdout
    assert file.read_text().strip() == key


def test_two_stacks_get_two_keys(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("keys.sh", {"VPD_API_KEY_FILE": str(tmp_path / name)})
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_key_in_the_environment_is_neither_written_nor_shown(tmp_path: Path) -> None:
    file = tmp_path / "api_key"
    done = run("keys.sh", {"VPD_API_KEY_FILE": str(file), "VPD_API_KEY": "mine"})
    assert done.returncode == 0
    assert "mine" not in done.stdout
    assert not file.exists()


def test_the_entrypoint_reads_the_key_from_its_file(tmp_path: Path, fake_vpd: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    done = entrypoint(fake_vpd, {"VPD_API_KEY_FILE": str(tmp_path / "key"), "VPD_API_KEY": ""})
    assert done.stdout.splitlines() == ["args: serve inference --port 8201", "VPD_API_KEY=secret"]


def test_the_entrypoint_prefers_the_key_in_the_environment(tmp_path: Path, fake_vpd: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    done = entrypoint(fake_vpd, {"VPD_API_KEY_FILE": str(tmp_path / "key"), "VPD_API_KEY": "mine"})
    assert "VPD_API_KEY=mine" in done.stdout


def test_the_entrypoint_refuses_to_start_an_open_service_where_a_key_was_promised(
    tmp_path: Path, fake_vpd: Path
) -> None:
    done = entrypoint(fake_vpd, {"VPD_API_KEY_FILE": str(tmp_path / "absent")})
    assert done.returncode == 2
    assert "VPD_API_KEY" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("recipe", "file"),
    [("grpo", "recipes/grpo.toml"), ("mine.toml", "mine.toml"), ("/tmp/a b.toml", "/tmp/a b.toml")],
)
def test_the_entrypoint_turns_a_recipe_into_a_flag(fake_vpd: Path, recipe: str, file: str) -> None:
    done = entrypoint(fake_vpd, {"VPD_RECIPE": recipe})
    assert done.stdout.splitlines() == [f"args: serve inference --port 8201 --recipe {file}"]


@pytest.fixture
def service() -> Iterator[http.server.HTTPServer]:
    """A service whose /readyz answers with the status in its `status` attribute."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status if self.path == "/readyz" else 404)  # type: ignore[attr-defined]
            self.end_headers()
            self.wfile.write(b'{"queue": "Redis does not answer."}')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_is_what_readyz_says(service: http.server.HTTPServer, status: int, code: int) -> None:
    service.status = status  # type: ignore[attr-defined]
    command = [sys.executable, "-IS", str(DOCKER / "healthcheck.py"), str(service.server_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert "Redis does not answer." in done.stdout


def test_the_health_check_fails_where_nothing_listens(service: http.server.HTTPServer) -> None:
    port = service.server_port
    service.socket.close()
    command = [sys.executable, "-IS", str(DOCKER / "healthcheck.py"), str(port)]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 1


def fetch_model(hub: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HF_HOME": str(hub), "VPD_MODEL__PATH": path}
    command = [sys.executable, str(DOCKER / "fetch_model.py")]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("path", "world"), [("", "renamed_library"), ("builtin:rigid_math", "rigid_math")])
def test_there_is_nothing_to_fetch_for_a_built_in_model(tmp_path: Path, path: str, world: str) -> None:
    done = fetch_model(tmp_path, path)
    assert done.stdout == f"{ROOT / 'trainer' / 'tasks' / world / 'model'}\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_a_hub_is_fetched_to_where_vllm_looks_for_it(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    done = fetch_model(tmp_path, "some/model", HF_HUB_OFFLINE="1")
    assert done.stdout == f"{cached / 'snapshots' / 'abc'}\n", done.stderr


def test_a_model_that_cannot_be_fetched_is_one_sentence(tmp_path: Path) -> None:
    done = fetch_model(tmp_path, "some/model", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model.path: some/model ")
    assert len(done.stderr.splitlines()) == 1


def pins(part: str) -> list[str]:
    command = [sys.executable, str(DOCKER / "pins.py"), part]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()


def test_the_pins_of_an_extra_hold_those_of_the_extra_it_names_and_text_has_no_torch() -> None:
    assert set(pins("text")) < set(pins("model"))
    assert [pin for pin in pins("model") if pin.startswith("torch==")] != []
    assert [pin for pin in pins("text") if pin.startswith("torch")] == []
    assert [pin for pin in pins("model") if "==" not in pin] == []
