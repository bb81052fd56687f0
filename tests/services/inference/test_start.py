"""Starting the inference service: models that cannot be loaded, and what the gateway's process imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from services.inference.app import create_app
from shared.errors import SettingsError
from tests.services.inference.inference_support import HELLO, settings_for
from tests.serving import running


def test_a_model_that_does_not_exist_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^model\.path"):
        create_app(settings_for(tmp_path / "none", tmp_path / "root"))


def test_a_model_that_cannot_be_loaded_is_one_sentence_in_readyz_and_on_every_route(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3"}')
    with running(create_app(settings_for(tmp_path / "model", tmp_path / "root"))) as url:
        deadline = time.monotonic() + 30
        while "cannot be loaded" not in (ready := httpx.get(url + "/readyz")).text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (ready.status_code, httpx.get(url + "/healthz").status_code) == (503, 200)
        refused = httpx.post(url + "/v1/rollouts", json={"prompts": [HELLO]})
        assert refused.status_code == 503
        assert "model.path" in refused.json()["detail"]


VLLM_GATEWAY = """
import hashlib, pathlib, sys
from services.inference.app import create_app
from services.inference.checkpoint import Reference, check_weights
from services.inference.text import Text
from shared.protocol import Message
from shared.settings import InferenceSettings, ModelSettings, Settings, VLLMSettings

model = sys.argv[1]
# A server that runs elsewhere: nothing needs to be installed here.
vllm = VLLMSettings(url="http://127.0.0.1:9")
create_app(Settings(model=ModelSettings(path=model), inference=InferenceSettings(engine="vllm", vllm=vllm)))
text = Text(model)
text.load()
assert text.decode(text.render([Message(role="user", content="hello")])) == "hello"
content = (pathlib.Path(model) / "model.safetensors").read_bytes()
check_weights(pathlib.Path(model), Reference.of(pathlib.Path(model)), hashlib.sha256(content).hexdigest())
print([name for name in ("torch", "vllm") if name in sys.modules])
"""


def test_the_gateway_loads_neither_torch_nor_vllm(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-c", VLLM_GATEWAY, str(tiny_model_dir)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr
