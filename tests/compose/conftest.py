"""One stack for the compose tests: built, started with a short run, taken down with its volumes."""

from __future__ import annotations

import importlib.metadata
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import ROOT, CommandFailed, Stack, require_engine

OVERRIDE = """
services:
  collector:
    environment: &short
      VPD_EVALUATION__EVERY: 1000
      # A machine that is busy otherwise must make the tests slow, not red.
      VPD_FEEDBACK__SOURCES__CODE__TIMEOUT_S: 120
      VPD_EVALUATION__FINAL_TASKS: ${FINAL_TASKS}
  learner:
    environment:
      <<: *short
      VPD_TRACKING__TENSORBOARD: "true"
      VPD_TRACKING__TRACKIO: "true"
      VPD_TRACKING__WANDB: "true"
      VPD_TRACKING__FLUSH_S: 60
  my-source:
    image: vpd-code-feedback
    entrypoint: [uvicorn, "my_source:app", --app-dir, /source, --host, 0.0.0.0, --port, "9000"]
    volumes: ["${MY_SOURCE}:/source:ro"]
    networks: [sandbox]
"""
STEPS = 40


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack of docker-compose.yml with every service healthy and a run of `STEPS` steps on its way."""
    require_engine()
    _offer_torch_wheel()
    override = tmp_path_factory.mktemp("compose") / "override.yml"
    override.write_text(OVERRIDE, encoding="utf-8")
    source = tmp_path_factory.mktemp("source")
    source.chmod(0o755)
    page = (ROOT / "docs" / "feedback-source.md").read_text(encoding="utf-8")
    (source / "my_source.py").write_text(page.split("```python\n", 1)[1].split("```", 1)[0], encoding="utf-8")
    environment = {
        "VPD_RUN__STEPS": str(STEPS),
        "FINAL_TASKS": "150",
        "MY_SOURCE": str(source),
        # Port 0 lets the engine choose, so that the tests do not meet a stack that is in use.
        "INFERENCE_PORT": "0",
        "CRITIC_FEEDBACK_PORT": "0",
        "HUMAN_FEEDBACK_PORT": "0",
        "DASHBOARD_PORT": "0",
        "PROMETHEUS_PORT": "0",
    }
    started = Stack(f"vpd-test-{secrets.token_hex(4)}", [override], environment)
    try:
        try:
            started.up("collector", "learner", "dashboard")
        except CommandFailed as failure:
            logs = started.compose("logs", "--no-color", "--tail", "20")
            raise CommandFailed(f"{failure}\n{logs}") from None
        yield started
    finally:
        started.down()


def _offer_torch_wheel() -> None:
    """Where this environment runs a CPU build of torch, put its wheel where image builds look first.

    Machines that do not reach torch's own index get it from the mirror that pip is set up with; elsewhere this
    finds nothing and the build asks the index.
    """
    wheels = ROOT / "docker" / "wheels"
    version = importlib.metadata.version("torch")
    if not version.endswith("+cpu") or list(wheels.glob("torch-*.whl")):
        return
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    subprocess.run([*pip, f"torch=={version}"], capture_output=True, timeout=600, check=False, cwd=Path(ROOT))
