"""vLLM where something is special: a faulty worker, wrong arguments, adapters, a server elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from services.inference.vllm import server
from services.inference.vllm.environment import python
from shared.settings import Settings, VLLMSettings
from tests.services.inference.vllm.vllm_support import (
    CANARY_IDS,
    CONTEXT,
    HIDDEN,
    PROMPTS,
    gateway,
    logprobs,
    publication,
    publish,
    sample,
    settings_for,
    wait_until,
    worst,
)
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

CLOSE = 1e-4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "policies"


@pytest.fixture
def model(root: Path) -> Path:
    return make_tiny_model(root / "initial", seed=1, hidden=HIDDEN, context=CONTEXT)


# ------------------------------------------------------------------------------------------------------- the canary


def test_an_engine_that_keeps_a_part_of_the_old_weights_is_found_out_and_blocked(
    model: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = tmp_path / "worker"
    shutil.copytree(server.WORKER_DIRECTORY, faulty)
    source = (faulty / "vpd_vllm_worker.py").read_text()
    repacking = "        repack_tied_head(self.model_runner.get_model())\n"
    assert repacking in source
    (faulty / "vpd_vllm_worker.py").write_text(source.replace(repacking, ""))
    monkeypatch.setattr(server, "WORKER_DIRECTORY", faulty)
    with gateway(settings_for(model, root)) as client:
        assert sample(client, PROMPTS[0])
        refused = publish(client, root, seed=2)
        assert refused.status_code == 500
        assert "version 2" in refused.json()["detail"].lower()
        assert "nats" in refused.json()["detail"]
        for route, body in (
            ("/v1/rollouts", {"prompts": PROMPTS}),
            ("/v1/score", {"sequences": [{"prompt_token_ids": [9], "token_ids": [70]}]}),
            ("/v1/completions", {"model": "policy", "prompt": [9, 70]}),
        ):
            answer = client.post(route, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "nats" in answer.json()["detail"]
        assert "nats" in client.get("/v1/policy").json()["blocked"]
        assert "nats" in client.get("/readyz").text
        # What it was started with is still what the file of the model says: that passes, and unblocks.
        shutil.copytree(model, root / "again")
        client.post("/v1/policy", json=publication(root / "again", version=3)).raise_for_status()
        assert client.get("/readyz").status_code == 200
        assert worst(model, sample(client, *PROMPTS)) < CLOSE


# ------------------------------------------------------------------------------------------------------------ starts


def test_a_vllm_that_does_not_come_up_says_why_in_readyz(model: Path, root: Path) -> None:
    settings = settings_for(model, root, vllm=VLLMSettings(arguments=["--no-such-flag"]))
    with gateway(settings, ready=False) as client:
        wait_until(lambda: "no-such-flag" in client.get("/readyz").text, lambda: client.get("/readyz").text)
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/rollouts", json={"prompts": PROMPTS}).status_code == 503


# ---------------------------------------------------------------------------------------------------------- adapters


def test_adapters_are_served_under_the_version_they_are_published_as(model: Path, root: Path) -> None:
    with gateway(settings_for(model, root, vllm=VLLMSettings(lora_rank=8))) as client:
        assert worst(model, sample(client, *PROMPTS)) < CLOSE
        for version in (1, 2):
            adapter, merged = _adapter(model, root, seed=version)
            announced = {
                "run_id": "run-1",
                "version": version,
                "path": str(adapter),
                "sha256": hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest(),
                "adapter": True,
                "canary": {"token_ids": CANARY_IDS, "logprobs": logprobs(merged, CANARY_IDS[:1], CANARY_IDS[1:])},
            }
            response = client.post("/v1/policy", json=announced)
            assert (response.status_code, response.json().get("version")) == (200, version), response.text
            made = sample(client, *PROMPTS)
            assert worst(merged, made) < CLOSE
            assert worst(model, made) > 0.1
            assert {span["version"] for p in made for r in p["rollouts"] for span in r["versions"]} == {version}


def _adapter(model: Path, root: Path, *, seed: int) -> tuple[Path, Path]:
    """A LoRA adapter of random weights, and the model with it merged in."""
    rank, alpha = 4, 16
    adapter, merged = root / f"adapter-{seed}", root / f"merged-{seed}"
    adapter.mkdir()
    generator = torch.Generator().manual_seed(seed)
    network: Any = AutoModelForCausalLM.from_pretrained(model)
    tensors = {}
    for layer in range(2):
        weight = network.model.layers[layer].self_attn.q_proj.weight
        down = torch.randn(rank, weight.shape[1], generator=generator) * 0.3
        up = torch.randn(weight.shape[0], rank, generator=generator) * 0.3
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        with torch.no_grad():
            weight += (alpha / rank) * up @ down
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["q_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"bias": "none", "base_model_name_or_path": ""}))
    shutil.copytree(model, merged)
    network.save_pretrained(merged)
    return adapter, merged


# ------------------------------------------------------------------------------------------------------- an upstream


def test_a_server_of_the_users_own_is_served_from_and_never_under_a_wrong_version(model: Path, root: Path) -> None:
    port = _free_port()
    settings = settings_for(model, root, vllm=VLLMSettings(url=f"http://127.0.0.1:{port}"))
    with _upstream(settings, model, port) as process:
        with gateway(settings) as client:
            assert worst(model, sample(client, *PROMPTS)) < CLOSE
            publish(client, root, seed=5).raise_for_status()
            assert worst(root / "seed-5", sample(client, *PROMPTS)) < CLOSE
        # A gateway that knows of no publication finds weights there that are not the initial ones.
        (root / "current_policy.json").unlink()
        with gateway(settings) as client:
            assert client.get("/v1/policy").json()["version"] == 0
            made = sample(client, *PROMPTS)
            assert worst(model, made) < CLOSE
            assert {span["version"] for p in made for r in p["rollouts"] for span in r["versions"]} == {0}
            # Somebody else changes its weights, or only says so.
            httpx.post(f"{settings.inference.vllm.url}/update_weight_version", json={"new_version": "mine"})
            answer = client.post("/v1/rollouts", json={"prompts": PROMPTS})
            assert answer.status_code == 503
            wait_until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)
            assert worst(model, sample(client, *PROMPTS)) < CLOSE
        assert process.poll() is None


@contextmanager
def _upstream(settings: Settings, model: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A vLLM server prepared as the documentation says, on a port."""
    own = settings.model_copy(update={"inference": settings.inference.model_copy(update={"vllm": VLLMSettings()})})
    command = server.command(own, python(own), model, Path("unused"))
    place = command.index("--uds")
    command[place : place + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    environment = server.child_environment(own, os.environ)
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
