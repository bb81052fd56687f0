"""What tests of the inference service over HTTP share: a service over the tiny model, publications, and an oracle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.tiny_model import tiny_model

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
LONGER = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is three plus 4?"}]}
IDS = {"token_ids": [9, 70, 71, 72]}


def settings_for(model: Path, root: Path, **inference: Any) -> Settings:
    root.mkdir(exist_ok=True)
    return Settings(
        model=ModelSettings(path=str(model), device="cpu"),
        inference=InferenceSettings(policy_root=str(root), threads=1, **inference),
    )


@contextmanager
def wait_ready(url: str) -> Iterator[httpx.Client]:
    """A client of the service at `url`, once it is ready."""
    with httpx.Client(base_url=url, timeout=30) as client:
        deadline = time.monotonic() + 120
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, client.get("/readyz").text
            time.sleep(0.01)
        yield client


def checkpoint(root: Path, name: str, *, seed: int) -> dict[str, Any]:
    """A publication of version `seed` with random weights of that seed."""
    tiny_model(seed=seed).save_pretrained(root / name)
    return publication(root / name, version=seed)


def publication(directory: Path, *, version: int, run_id: str = "run-1") -> dict[str, Any]:
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    return {"run_id": run_id, "version": version, "path": str(directory), "sha256": digest}


def sample(client: httpx.Client, *prompts: dict[str, Any], n: int = 4, **sampling: Any) -> list[dict[str, Any]]:
    body = {"prompts": list(prompts), "n": n, "sampling": {"max_tokens": 12, **sampling}}
    response = client.post("/v1/rollouts", json=body)
    assert response.status_code == 200, response.text
    answer: list[dict[str, Any]] = response.json()["prompts"]
    return answer


def worst_difference(model: Any, prompts: list[dict[str, Any]], temperature: float = 1.0) -> float:
    """Largest |log-prob of the service - log-prob of a forward pass over prompt and response|."""
    worst = 0.0
    for prompt in prompts:
        start = len(prompt["prompt_token_ids"])
        for rollout in prompt["rollouts"]:
            ids = torch.tensor([prompt["prompt_token_ids"] + rollout["token_ids"]])
            with torch.no_grad():
                logprobs = torch.log_softmax(model(ids).logits[0, start - 1 : -1].float() / temperature, -1)
            oracle = logprobs.gather(1, ids[0, start:, None]).squeeze(1)
            worst = max(worst, (oracle - torch.tensor(rollout["logprobs"])).abs().max().item())
    return worst


def canary(model: Any, *, off_by: float = 0.0) -> dict[str, Any]:
    """A canary with the log-probs of `model`, the last of them `off_by` nats wrong."""
    ids = torch.randint(0, 261, (16,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1).gather(1, ids[1:, None])[:, 0]
    logprobs[-1] += off_by
    return {"token_ids": ids.tolist(), "logprobs": logprobs.tolist()}
