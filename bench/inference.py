"""The inference service measured: the gateway against bare vLLM, vLLM against transformers, publications, start-up.

    .venv/bin/python -m bench.inference [--quick] [gateway] [engines] [publish] [start]

Needs the environment of vLLM (`./vpd install vllm`). Everything runs on this machine, and so do the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from services.inference.vllm import server
from services.inference.vllm.environment import python
from shared.models import resolve_model
from shared.protocol import Canary
from shared.settings import InferenceSettings, LearnerSettings, ModelSettings, Settings
from shared.tether import tethered
from trainer.policy import Policy

CLIENTS = 32
NEW_TOKENS = 64
BUILTIN = "builtin:renamed_library"
SERVE = "import sys; from cli.main import main; sys.argv = ['vpd', 'serve', 'inference', '--port', sys.argv[1]]; main()"
PARTS = ("gateway", "engines", "publish", "start")
SIZES = {"0.4M": None, "17.5M": (384, 8), "60M": (640, 12)}
"""Hidden size and layers of the models that are made on the spot; None: the built-in world's."""

Ask = Callable[[httpx.AsyncClient, list[int]], Awaitable[int]]
"""Asks for NEW_TOKENS tokens after a prompt; how many came."""


# ------------------------------------------------------------------------------------------------------- what runs


def make_model(directory: Path, size: str) -> Path:
    """A Qwen3 of that size with random weights and the built-in world's tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    source = Path(resolve_model(BUILTIN))
    shape = SIZES[size]
    if shape is None:
        return Path(shutil.copytree(source, directory))
    hidden, layers = shape
    original = json.loads((source / "config.json").read_text())
    config = Qwen3Config(
        vocab_size=original["vocab_size"],
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=original["eos_token_id"],
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, directory)
    return directory


def settings_of(model: Path, engine: str) -> Settings:
    """Of a service whose policies are beside the model."""
    inference = InferenceSettings(engine="vllm" if engine == "vllm" else "transformers", policy_root=str(model.parent))
    return Settings(model=ModelSettings(path=str(model), device="cpu"), inference=inference)


@contextmanager
def bare_vllm(settings: Settings) -> Iterator[str]:
    """The URL of a vLLM server as the gateway would start it, on a port."""
    port = _free_port()
    command = server.command(settings, python(settings), Path(settings.model.path), Path("unused"))
    place = command.index("--uds")
    command[place : place + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    with _process(command, server.child_environment(settings, os.environ)):
        yield _wait(f"http://127.0.0.1:{port}", "/health")


@contextmanager
def gateway(settings: Settings, **vllm: str) -> Iterator[str]:
    """The URL of `vpd serve inference`, once it is ready."""
    port = _free_port()
    own = {
        "VPD_MODEL__PATH": settings.model.path,
        "VPD_MODEL__DEVICE": "cpu",
        "VPD_INFERENCE__ENGINE": settings.inference.engine,
        "VPD_INFERENCE__POLICY_ROOT": settings.inference.policy_root,
        "VPD_SERVICE__LOG_FORMAT": "json",
    } | {f"VPD_INFERENCE__VLLM__{name.upper()}": value for name, value in vllm.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VPD_")}
    with _process([sys.executable, "-P", "-c", SERVE, str(port)], {"OMP_NUM_THREADS": "1", **kept, **own}):
        yield _wait(f"http://127.0.0.1:{port}", "/readyz")


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            tethered(command), env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[1]
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, path: str) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url + path, timeout=5).status_code == 200:
                return url
        time.sleep(0.05)
    raise SystemExit(f"error: {url}{path} did not answer with 200 within 300 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -------------------------------------------------------------------------------------------------------- the load


async def ask_vllm(client: httpx.AsyncClient, prompt: list[int]) -> int:
    """Of vLLM's own tokens-in-tokens-out route."""
    parameters = {"max_tokens": NEW_TOKENS, "ignore_eos": True, "logprobs": 0, "detokenize": False, "temperature": 1.0}
    answer = await client.post("/inference/v1/generate", json={"token_ids": prompt, "sampling_params": parameters})
    return sum(len(choice["token_ids"]) for choice in answer.json()["choices"])


async def ask_gateway(client: httpx.AsyncClient, prompt: list[int]) -> int:
    """Of the gateway's native route."""
    sampling = {"max_tokens": NEW_TOKENS, "ignore_end": True}
    answer = await client.post("/v1/rollouts", json={"prompts": [{"token_ids": prompt}], "sampling": sampling})
    return sum(len(rollout["token_ids"]) for one in answer.json()["prompts"] for rollout in one["rollouts"])


async def ask_as_collector(client: httpx.AsyncClient, prompt: list[int]) -> int:
    """One request of 16 prompts x 8 rollouts, as the collector makes in a step."""
    prompts = [{"token_ids": [*prompt, token]} for token in range(100, 116)]
    sampling = {"max_tokens": NEW_TOKENS, "ignore_end": True}
    answer = await client.post("/v1/rollouts", json={"prompts": prompts, "n": 8, "sampling": sampling})
    return sum(len(rollout["token_ids"]) for one in answer.json()["prompts"] for rollout in one["rollouts"])


def tokens_per_s(url: str, ask: Ask, *, clients: int, requests: int) -> float:
    """New tokens a second of `clients` that ask one request after the other, `requests` in all."""

    async def run() -> float:
        draw = random.Random(1)
        prompts = [[draw.randrange(20, 200) for _ in range(draw.randrange(8, 32))] for _ in range(requests)]
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:

            async def work() -> int:
                tokens = 0
                while prompts:
                    tokens += await ask(client, prompts.pop())
                return tokens

            started = time.perf_counter()
            made = await asyncio.gather(*(work() for _ in range(clients)))
            return sum(made) / (time.perf_counter() - started)

    return asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- the parts


def measure_gateway(folder: Path, quick: bool) -> None:
    """Tokens/s through the gateway over those of the same vLLM server, asked directly, turn and turn about."""
    for size in ["0.4M"] if quick else ["0.4M", "17.5M"]:
        settings = settings_of(make_model(folder / f"gateway-{size}", size), "vllm")
        requests = 64 if quick else 320 if size == "0.4M" else 128
        with bare_vllm(settings) as vllm, gateway(settings, url=vllm) as ours:
            tokens_per_s(vllm, ask_vllm, clients=CLIENTS, requests=CLIENTS)
            tokens_per_s(ours, ask_gateway, clients=CLIENTS, requests=CLIENTS)
            rounds = []
            for _ in range(1 if quick else 7):
                bare = tokens_per_s(vllm, ask_vllm, clients=CLIENTS, requests=requests)
                through = tokens_per_s(ours, ask_gateway, clients=CLIENTS, requests=requests)
                rounds.append((bare, through))
        ratios = sorted(through / bare for bare, through in rounds)
        bare, through = (statistics.median(one[side] for one in rounds) for side in (0, 1))
        say(
            f"gateway, {size}, {CLIENTS} clients: {through:.0f} tokens/s, bare vLLM {bare:.0f}: "
            f"{100 * statistics.median(ratios):.1f} % (rounds {100 * ratios[0]:.1f} to {100 * ratios[-1]:.1f} %)"
        )


def measure_engines(folder: Path, quick: bool) -> None:
    """Tokens/s of vLLM over those of the transformers engine, both behind the gateway."""
    for size in ["0.4M"] if quick else ["0.4M", "17.5M"]:
        found: dict[tuple[str, str], float] = {}
        for engine in ("transformers", "vllm"):
            settings = settings_of(make_model(folder / f"{engine}-{size}", size), engine)
            with gateway(settings) as url:
                for name, ask, clients, requests in (
                    (f"{CLIENTS} clients", ask_gateway, CLIENTS, 64 if quick else 192),
                    ("16 prompts x 8", ask_as_collector, 1, 2 if quick else 4),
                ):
                    tokens_per_s(url, ask, clients=clients, requests=clients)
                    rounds = [
                        tokens_per_s(url, ask, clients=clients, requests=requests) for _ in range(1 if quick else 3)
                    ]
                    found[engine, name] = statistics.median(rounds)
        for name in (f"{CLIENTS} clients", "16 prompts x 8"):
            ours, peer = found["vllm", name], found["transformers", name]
            say(f"engines, {size}, {name}: vLLM {ours:.0f} tokens/s, transformers {peer:.0f}: {ours / peer:.2f} x")


def measure_publish(folder: Path, quick: bool) -> None:
    """Seconds from a publication with its canary to its answer."""
    for size in ["0.4M"] if quick else SIZES:
        for engine in ("transformers", "vllm"):
            model = make_model(folder / f"publish-{engine}-{size}", size)
            announced = _publication(model)
            with gateway(settings_of(model, engine)) as url:
                took = [_publish(url, announced | {"version": version}) for version in range(1, 4 if quick else 8)]
            megabytes = (model / "model.safetensors").stat().st_size / 2**20
            say(
                f"publish, {size} ({megabytes:.0f} MB), {engine}: {statistics.median(took):.3f} s "
                f"({min(took):.3f} to {max(took):.3f})"
            )


def _publication(model: Path) -> dict[str, Any]:
    policy = Policy(model, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    canary = policy.canary()
    assert isinstance(canary, Canary)
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    return {"run_id": "bench", "path": str(model), "sha256": digest, "canary": canary.model_dump()}


def _publish(url: str, announced: dict[str, Any]) -> float:
    started = time.perf_counter()
    httpx.post(f"{url}/v1/policy", json=announced, timeout=300).raise_for_status()
    return time.perf_counter() - started


def measure_start(folder: Path, quick: bool) -> None:
    """Seconds from the start of the service's process until it is ready."""
    for engine in ("transformers", "vllm"):
        settings = settings_of(make_model(folder / f"start-{engine}", "0.4M"), engine)
        took = []
        for _ in range(1 if quick else 3):
            started = time.perf_counter()
            with gateway(settings):
                took.append(time.perf_counter() - started)
        say(f"start, 0.4M, {engine}: {statistics.median(took):.1f} s ({min(took):.1f} to {max(took):.1f})")


def say(line: str) -> None:
    """A result, at once."""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="the smallest model, once: to see it run")
    arguments = parser.parse_args()
    if wrong := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {wrong[0]!r}; they are {', '.join(PARTS)}")
    measures = {
        "gateway": measure_gateway,
        "engines": measure_engines,
        "publish": measure_publish,
        "start": measure_start,
    }
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for part in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="vpd-bench-") as folder:
            measures[part](Path(folder), arguments.quick)


if __name__ == "__main__":
    main()
