"""docs/inference.md: its requests are answered, and the command of a vLLM of one's own is the one that is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.inference.app import create_app
from services.inference.vllm import server
from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.services.inference.inference_support import wait_ready
from tests.serving import running

TEXT = (Path(__file__).parents[2] / "docs" / "inference.md").read_text()


def test_every_request_is_answered(tmp_path: Path) -> None:
    requests = re.findall(r"curl -s http://127\.0\.0\.1:8201(\S+).*?-d '(.*?)'", TEXT, re.DOTALL)
    assert requests
    settings = Settings(inference=InferenceSettings(policy_root=str(tmp_path), threads=1))
    with running(create_app(settings)) as url, wait_ready(url) as client:
        for route, body in requests:
            answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 200, answer.text


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
