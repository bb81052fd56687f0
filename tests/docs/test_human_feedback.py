"""The requests in docs/human-feedback.md, one after the other, are answered as is shown below each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from readme_commands import blocks, shape

DOCUMENT = (Path(__file__).parents[2] / "docs" / "human-feedback.md").read_text()
ADDRESS = "http://127.0.0.1:8204"
FILLED_IN = re.compile(r"^export (\w+)=\S+  # ([\w.]+) of the answer$", re.MULTILINE)
KEY = "docs-key"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as the document starts it, but for port, log and database."""
    (started,) = re.findall(r"\./vpd serve human-feedback --port 8204 (.*)", DOCUMENT)
    command = [sys.executable, "-P", "-m", "cli.main", "serve", "human-feedback", "--port", "0", *started.split()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VPD_")} | {
        "VPD_API_KEY": KEY,
        "VPD_HUMAN_FEEDBACK__DATABASE": str(tmp_path_factory.mktemp("human") / "h.sqlite3"),
        "VPD_SERVICE__LOG_FORMAT": "json",
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = next(entry["port"] for line in process.stderr if (entry := json.loads(line))["event"] == "listening")
        # A log that nobody reads stops who writes it.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        yield f"http://127.0.0.1:{port}"
        process.kill()
        reading.join()


def _answers(block: str, url: str, known: dict[str, str]) -> list[Any]:
    environment = os.environ | known | {"VPD_API_KEY": KEY}
    command = ["bash", "-ec", block.replace("curl -s", "curl -sS --fail-with-body").replace(ADDRESS, url)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    answers: list[Any] = json.loads("[" + done.stdout.strip().replace("}{", "},{") + "]")
    return answers


def test_every_request_is_answered_in_the_shape_that_is_shown(url: str) -> None:
    known: dict[str, str] = {}
    answer: Any = None
    for block, shown in blocks(DOCUMENT):
        for name, path in FILLED_IN.findall(block):
            known[name] = answer
            for part in path.split("."):
                known[name] = known[name][part]
        answers = _answers(FILLED_IN.sub("", block), url, known)
        assert bool(answers) == (shown is not None), block
        if shown is not None:
            answer = answers[-1]
            assert shape(answer) == shape(json.loads(shown)), f"{block}\n{json.dumps(answer)}"
    assert set(known) == {"JOB", "CLAIM", "ROLLOUT", "CRITIQUE"}


def test_every_route_but_the_page_s_own_has_a_request(url: str) -> None:
    asked = set()
    for block, _ in blocks(DOCUMENT):
        for line in block.replace("\\\n", " ").split("curl")[1:]:
            (path,) = re.findall(rf"{ADDRESS}(/[^\s?\"]*)", line)
            method = re.findall(r"-X (\w+)", line) or ["POST" if " -d '" in line else "GET"]
            asked.add((method[0].lower(), path))
    routes = httpx.get(f"{url}/openapi.json").json()["paths"]
    for path, operations in routes.items():
        pattern = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        for method, operation in operations.items() if path.startswith("/v1/") else ():
            asked_for = any(method == used and pattern.fullmatch(place) for used, place in asked)
            assert asked_for or "review page" in operation["tags"], (method, path)
