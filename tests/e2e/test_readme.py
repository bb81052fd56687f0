"""Every command of the README runs as it is printed, and answers in the shape that is printed below it.

Runs are made short by the environment, and paths that stand for a user's own are filled in; `docker compose up` is run
by tests/compose, and `./vpd test` is how these tests were started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vpd_run import KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n?```json\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("docker compose up", "./vpd test")
TASK = {
    "id": "add",
    "kind": "code.functional",
    "messages": [{"role": "user", "content": "Write solve(x) that returns x + 1."}],
    "reference": {"fn_name": "solve", "tests": [{"input": "1", "output": "2"}]},
}


def blocks() -> list[tuple[str, str | None]]:
    """The README's shell blocks, each with the JSON that is printed below it, if any."""
    return [(command, shown or None) for command, shown in BLOCK.findall(README)]


def commands(block: str) -> list[str]:
    """The block's lines, continued lines joined, comments and those that are run elsewhere left out."""
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("readme")
    tasks = directory / "my_tasks.jsonl"
    tasks.write_text("".join(json.dumps(TASK | {"id": f"add-{i}"}) + "\n" for i in range(40)))
    yield {k: v for k, v in os.environ.items() if not k.startswith("VPD_")} | {
        "VPD_API_KEY": KEY,
        "VPD_RUN__DIR": str(directory),
        "VPD_RUN__STEPS": "1",
        "VPD_EVALUATION__FINAL_TASKS": "4",
        "TASKS": str(tasks),
    }


def shell(command: str, environment: dict[str, str]) -> str:
    """Standard output of a command that succeeds, run from the project's directory."""
    filled = command.replace("my_tasks.jsonl", environment["TASKS"])
    filled = filled.replace("Qwen/Qwen3-0.6B", "builtin:renamed_library")
    script = ["bash", "-ec", filled]
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{filled}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shape(value: Any) -> Any:
    """The keys of a JSON value, all the way down."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None


def test_every_vpd_command_of_the_readme_runs(environment: dict[str, str]) -> None:
    lines = [line for block, _ in blocks() for line in commands(block) if "./vpd" in line]
    assert any(line.startswith("./vpd up") for line in lines) and "./vpd status" in lines
    for number, line in enumerate(lines):
        if "127.0.0.1:9000" in line:
            continue  # a user's own source: tests/e2e/test_feedback_sources.py trains against one
        shell(line, environment | {"VPD_RUN__NAME": f"readme-{number}"} if "run.name" not in line else environment)


def test_every_request_of_the_readme_is_answered_in_the_shape_that_is_shown(environment: dict[str, str]) -> None:
    asked = 0
    shell("./vpd up --keep", environment | {"VPD_RUN__NAME": "kept"})
    try:
        for block, shown in blocks():
            if block.startswith("curl") and shown is not None:
                answers = json.loads("[" + shell(block, environment).strip().replace("}{", "},{") + "]")
                assert shape(answers[-1]) == shape(json.loads(shown)), block
                asked += 1
    finally:
        shell("./vpd down", environment)
    assert asked >= 5
