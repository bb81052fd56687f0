"""Every command of the README runs as it is printed, and answers in the shape that is printed below it.

Runs are made short by the environment, and paths that stand for a user's own are filled in; `docker compose up` is run
by tests/compose, those that need vLLM by `test_readme_vllm.py`, and `./vpd test` is how these tests were started.
"""

from __future__ import annotations

import json

import pytest
from readme_commands import blocks, shape, shell, vpd_commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_every_vpd_command_of_the_readme_runs(readme_environment: dict[str, str]) -> None:
    lines = vpd_commands(vllm=False)
    assert any(line.startswith("./vpd up") for line in lines) and "./vpd status" in lines
    for number, line in enumerate(lines):
        if "127.0.0.1:9000" in line:
            continue  # a user's own source: tests/e2e/test_feedback_sources.py trains against one
        named = {} if "run.name" in line else {"VPD_RUN__NAME": f"readme-{number}"}
        shell(line, readme_environment | named)


def test_every_request_of_the_readme_is_answered_in_the_shape_that_is_shown(readme_environment: dict[str, str]) -> None:
    asked = 0
    shell("./vpd up --keep", readme_environment | {"VPD_RUN__NAME": "kept"})
    try:
        for block, shown in blocks():
            if block.startswith("curl") and shown is not None:
                answers = json.loads("[" + shell(block, readme_environment).strip().replace("}{", "},{") + "]")
                assert shape(answers[-1]) == shape(json.loads(shown)), block
                asked += 1
    finally:
        shell("./vpd down", readme_environment)
    assert asked >= 5
