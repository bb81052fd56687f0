"""A gateway over a real vLLM, its models, and an oracle: the trainer's own forward pass."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import torch

from services.inference.app import create_app
from shared.settings import InferenceSettings, LearnerSettings, ModelSettings, Settings, VLLMSettings
from tests.services.inference import inference_support
from tests.serving import running
from tests.tiny_model import make_tiny_model
from trainer.policy import Policy
from trainer.scores import Sequences

HIDDEN = 128
"""vLLM's attention on a CPU has no kernel for heads narrower than 32, and the model has four."""
CONTEXT = 1024
READY_S = 120.0
CANARY_IDS = [5, 77, 130, 9, 260, 41, 18, 202, 33, 64, 150, 7]
PROMPTS = [{"token_ids": [9, 70, 71, 72]}, {"token_ids": [80, 81, 100, 101, 102, 9]}, {"token_ids": [200, 9]}]


def settings_for(model: Path, root: Path, *, vllm: VLLMSettings | None = None, **inference: Any) -> Settings:
    """Of an inference service over vLLM whose policies are below `root`."""
    root.mkdir(exist_ok=True)
    return Settings(
        model=ModelSettings(path=str(model), device="cpu"),
        inference=InferenceSettings(
            engine="vllm", policy_root=str(root), vllm=vllm or VLLMSettings(), max_batch_rows=64, **inference
        ),
    )


@contextmanager
def gateway(settings: Settings, *, ready: bool = True) -> Iterator[httpx.Client]:
    """A client of a gateway that runs for the length of the block; `ready`: once it can sample."""
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=120) as client:
        if ready:
            wait_until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)
        yield client


def wait_until(
    condition: Callable[[], bool], says: Callable[[], str] = lambda: "", *, within_s: float = READY_S
) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, says()
        time.sleep(0.02)


def publish(client: httpx.Client, root: Path, *, seed: int, tied: bool = True, **changes: Any) -> httpx.Response:
    """Publish random weights of `seed` as version `seed`, with their canary."""
    directory = root / f"seed-{seed}"
    if not directory.exists():
        make_tiny_model(directory, seed=seed, hidden=HIDDEN, context=CONTEXT, tied=tied)
    return client.post("/v1/policy", json=publication(directory, version=seed) | changes)


def publication(directory: Path, *, version: int, canary: dict[str, Any] | None = None) -> dict[str, Any]:
    """Of a directory, as the trainer would announce it; by default with a canary of its float32 forward pass."""
    ids = CANARY_IDS
    return {
        "run_id": "run-1",
        "version": version,
        "path": str(directory),
        "sha256": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "canary": canary or {"token_ids": ids, "logprobs": logprobs(directory, ids[:1], ids[1:])},
    }


@lru_cache(maxsize=16)
def oracle(directory: Path, temperature: float = 1.0) -> Policy:
    """The trainer's policy with the weights of a directory."""
    return Policy(directory, ModelSettings(device="cpu"), LearnerSettings(), temperature=temperature)


def logprobs(directory: Path, prompt: list[int], response: list[int], temperature: float = 1.0) -> list[float]:
    """What the trainer says of each token of a response."""
    policy = oracle(directory, temperature)
    with torch.no_grad():
        scores = policy.score(Sequences([prompt], [response]))
        values: list[float] = scores.logprobs().tolist()
    return values


def sample(client: httpx.Client, *prompts: dict[str, Any], n: int = 4, **sampling: Any) -> list[dict[str, Any]]:
    """Rollouts, by the native route, of 24 tokens if nothing else is said."""
    return inference_support.sample(client, *prompts, n=n, **{"max_tokens": 24, **sampling})


def worst(directory: Path, made: list[dict[str, Any]], temperature: float = 1.0) -> float:
    """Largest difference between a rollout's log-probs and the trainer's, over all tokens."""
    return max(
        abs(ours - theirs)
        for prompt in made
        for rollout in prompt["rollouts"]
        for ours, theirs in zip(
            logprobs(directory, prompt["prompt_token_ids"], rollout["token_ids"], temperature),
            rollout["logprobs"],
            strict=True,
        )
    )


def processes_below(pid: int) -> dict[int, str]:
    """All descendants of a process: their command names by process id."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), command)
    found: dict[int, str] = {}
    grown = True
    while grown:
        grown = False
        for child, (parent, command) in parents.items():
            if child not in found and (parent == pid or parent in found):
                found[child] = command
                grown = True
    return found


def kill(part: str) -> None:
    """SIGKILL to the `engine` process or the `server` process of the vLLM that this process runs."""
    mark = {"engine": "EngineCore", "server": "vllm.entrypoints"}[part]
    [pid] = [pid for pid, command in processes_below(os.getpid()).items() if mark in command]
    os.kill(pid, signal.SIGKILL)
