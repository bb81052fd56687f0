"""docs/inference.md: requests get the answers shown; a vLLM of one's own is started as the service starts its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.inference.app import create_app
from services.inference.vllm import server
from shared.models import resolve_model
from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.services.inference.inference_support import wait_ready
from tests.serving import running

TEXT = (Path(__file__).parents[2] / "docs" / "inference.md").read_text()
CONSOLE = re.findall(r"^```console\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
CURL = re.compile(
    r"\$ curl -s '?http://127\.0\.0\.1:8201(?P<route>[^\s']+)'?(?:.*?-d '(?P<body>.*?)')?\n(?P<answer>.*)", re.DOTALL
)
PASSING = {"id", "created", "request_id"}
"""Fields of which only the type is compared."""
DRAWN = {"text", "token_ids", "logprobs"}
"""Fields of rollouts of which only type and length are compared: draws differ by engine and by processor."""


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_every_request_gets_the_answer_that_is_shown(engine: str, tmp_path: Path) -> None:
    shutil.copytree(resolve_model(Settings().model.path), tmp_path / "try" / "v1")
    inference = InferenceSettings(engine=engine, policy_root=str(tmp_path), threads=1)
    app = create_app(Settings(model=ModelSettings(device="cpu"), inference=inference))
    with running(app) as url, wait_ready(url) as client:
        for block in CONSOLE:
            found = CURL.search(block)
            assert found, block
            method, headers = ("POST" if found["body"] else "GET"), {"Content-Type": "application/json"}
            answer = client.request(method, found["route"], content=found["body"], headers=headers)
            assert answer.status_code == 200, answer.text
            if found["answer"].strip():
                drawn = found["route"] == "/v1/rollouts"
                assert _told(answer.json(), drawn) == _told(json.loads(found["answer"]), drawn)
        refused = client.post("/v1/policy", json=_publication() | {"version": 2, "canary": _wrong_canary()})
        [shown] = re.findall(r"^```json\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
        assert _told(refused.json(), drawn=False) == _told(json.loads(shown), drawn=False)


def _publication() -> dict[str, Any]:
    [body] = [
        found["body"] for block in CONSOLE if (found := CURL.search(block)) and '"sha256"' in (found["body"] or "")
    ]
    publication: dict[str, Any] = json.loads(body)
    return publication


def _wrong_canary() -> dict[str, Any]:
    canary: dict[str, Any] = _publication()["canary"]
    [wrong] = re.findall(r"such as (-[\d.]+) at its end", TEXT)
    return canary | {"logprobs": [*canary["logprobs"][:-1], float(wrong)]}


def _told(document: Any, drawn: bool) -> Any:
    """What must be the same in two answers."""
    if isinstance(document, list):
        return [_told(one, drawn) for one in document]
    if isinstance(document, float):
        return round(document, 4)
    if not isinstance(document, dict):
        return document
    told = {name: _told(value, drawn) for name, value in document.items()}
    for name in PASSING & told.keys():
        told[name] = type(told[name])
    for name in (DRAWN if drawn else set()) & told.keys():
        told[name] = len(told[name]) if isinstance(told[name], list) else type(told[name])
    return told


@pytest.mark.parametrize(
    "option", ["--enable-scale-out", "--logprobs-mode", "--max-logprobs", "--worker-extension-cls"]
)
def test_a_vllm_of_ones_own_is_started_as_the_service_starts_its_own(option: str) -> None:
    settings = Settings(model=ModelSettings(device="cpu"))
    ours = server.command(settings, Path("python"), Path("model"), Path("socket"))
    value = ours[ours.index(option) + 1]
    wanted = option if value.startswith("--") else f"{option} {value}"
    assert wanted in " ".join(TEXT.split())
    assert all(name in TEXT for name in ("VLLM_SERVER_DEV_MODE=1", "PYTHONPATH=services/inference/vllm/worker"))


@pytest.mark.parametrize(
    "name", ["VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING", "TORCH_COMPILE_DISABLE"]
)
def test_a_vllm_of_ones_own_on_a_cpu_gets_the_environment_that_the_service_gives_its_own(name: str) -> None:
    ours = server.child_environment(Settings(model=ModelSettings(device="cpu")), {})
    assert f"{name}={ours[name]}" in TEXT
