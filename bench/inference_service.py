"""Inference services as processes of their own, models for them, and clients: for the benchmark beside this file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import httpx
import torch

from services.inference.vllm import server
from services.inference.vllm.environment import python
from shared.models import resolve_model
from shared.settings import InferenceSettings, ModelSettings, Settings
from shared.tether import tethered

ROOT = Path(__file__).parents[1]
BUILTIN = "builtin:renamed_library"
SERVE = "import sys; from cli.main import main; sys.argv = ['vpd', 'serve', 'inference', '--port', sys.argv[1]]; main()"
SIZES: dict[str, tuple[int, int] | None] = {"0.4M": None, "17.5M": (384, 8), "59M": (640, 10)}
"""Hidden size and layers of the models that are made on the spot; None: the built-in world's."""
NEW_TOKENS = 64
START_S = 300.0
STOP_S = 20.0

Prompts = Sequence[list[int]]
Ask = Callable[[httpx.AsyncClient, Prompts], Awaitable[int]]
"""Asks for NEW_TOKENS tokens after each prompt; how many came."""


# ---------------------------------------------------------------------------------------------------------- models


def make_model(directory: Path, size: str) -> Path:
    """A Qwen3 of that size with random weights, and the built-in world's tokenizer and vocabulary."""
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


def make_prompts(count: int) -> list[list[int]]:
    """Token ids of `count` prompts, 8 to 32 tokens each, the same ones every time."""
    draw = random.Random(1)
    return [[draw.randrange(20, 200) for _ in range(draw.randint(8, 32))] for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- processes


@contextmanager
def bare_vllm(model: Path) -> Iterator[str]:
    """The URL of a vLLM server as the gateway would start it, but on a port."""
    settings = Settings(model=ModelSettings(path=str(model), device="cpu"), inference=InferenceSettings(engine="vllm"))
    port = _free_port()
    command = server.command(settings, python(settings), model, Path("unused"))
    place = command.index("--uds")
    command[place : place + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    with _running(command, server.child_environment(settings, os.environ), port, "/health") as url:
        yield url


@contextmanager
def gateway(model: Path, engine: str, **vllm: str) -> Iterator[str]:
    """The URL of `vpd serve inference` with one computing thread, once it is ready; `vllm` are settings of
    `inference.vllm`. Its policies are beside the model."""
    port = _free_port()
    own = {
        "VPD_MODEL__PATH": str(model),
        "VPD_MODEL__DEVICE": "cpu",
        "VPD_INFERENCE__ENGINE": engine,
        "VPD_INFERENCE__POLICY_ROOT": str(model.parent),
        "VPD_INFERENCE__THREADS": "1",
        "VPD_SERVICE__LOG_FORMAT": "json",
    } | {f"VPD_INFERENCE__VLLM__{name.upper()}": value for name, value in vllm.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VPD_")}
    with _running([sys.executable, "-P", "-c", SERVE, str(port)], kept | own, port, "/readyz") as url:
        yield url


@contextmanager
def _running(command: list[str], environment: dict[str, str], port: int, ready: str) -> Iterator[str]:
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(tethered(command), env=environment, stdout=log, stderr=log, cwd=ROOT) as process,
    ):
        try:
            yield _wait(process, log, f"http://127.0.0.1:{port}", ready)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()


def _wait(process: subprocess.Popen[bytes], log: IO[bytes], url: str, path: str) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url + path, timeout=5).status_code == 200:
                return url
        time.sleep(0.05)
    log.seek(0)
    last = log.read().decode(errors="replace")[-2000:]
    raise SystemExit(f"error: {url}{path} did not answer with 200 within {START_S:g} s: {last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --------------------------------------------------------------------------------------------------------- clients


async def ask_vllm(client: httpx.AsyncClient, prompts: Prompts) -> int:
    """One request of vLLM's own tokens-in-tokens-out route, which takes one prompt."""
    [prompt] = prompts
    parameters = {"max_tokens": NEW_TOKENS, "ignore_eos": True, "logprobs": 0, "detokenize": False, "temperature": 1.0}
    answer = await post(client, "/inference/v1/generate", {"token_ids": prompt, "sampling_params": parameters})
    return sum(len(choice["token_ids"]) for choice in answer["choices"])


async def ask_gateway(client: httpx.AsyncClient, prompts: Prompts, n: int = 1) -> int:
    """One request of the gateway's native route."""
    sampling = {"max_tokens": NEW_TOKENS, "ignore_end": True}
    body = {"prompts": [{"token_ids": prompt} for prompt in prompts], "n": n, "sampling": sampling}
    answer = await post(client, "/v1/rollouts", body)
    return sum(len(rollout["token_ids"]) for one in answer["prompts"] for rollout in one["rollouts"])


async def post(client: httpx.AsyncClient, path: str, body: Any) -> Any:
    """The answer's document. Raises RuntimeError with what was said in place of one."""
    answer = await client.post(path, json=body)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.url} answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


def tokens_per_s(url: str, ask: Ask, *, clients: int, requests: int, prompts: int = 1) -> float:
    """New tokens a second of `clients` that ask one request after the other, `requests` in all, of `prompts` each."""

    async def run() -> float:
        flat = make_prompts(requests * prompts)
        todo = iter([flat[start : start + prompts] for start in range(0, len(flat), prompts)])

        async def work(client: httpx.AsyncClient) -> int:
            return sum([await ask(client, some) for some in todo])

        async with _client(url, clients) as client:
            started = time.perf_counter()
            made = await asyncio.gather(*(work(client) for _ in range(clients)))
            return sum(made) / (time.perf_counter() - started)

    return asyncio.run(run())


class Watch:
    """When tokens came over several streams that follow each other without end."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._came = asyncio.Event()

    def longest_gap(self, start: float, end: float) -> float:
        """Seconds, at most, in which no stream had a token, from the last one before `start` to the first one after
        `end` (both of time.perf_counter). Raises ValueError where there is none."""
        before = max(time for time in self._times if time <= start)
        after = min(time for time in self._times if time >= end)
        inside = [time for time in self._times if before <= time <= after]
        return max(later - earlier for earlier, later in pairwise(inside))

    async def until_token(self) -> None:
        """Return when one more token has come."""
        self._came.clear()
        await self._came.wait()

    async def follow(self, client: httpx.AsyncClient, prompts: Prompts) -> None:
        """Stream, one request after the other."""
        while True:
            for prompt in prompts:
                body = {"model": "policy", "prompt": prompt, "max_tokens": NEW_TOKENS, "stream": True}
                async with client.stream("POST", "/v1/completions", json=body) as answer:
                    answer.raise_for_status()
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            self._times.append(time.perf_counter())
                            self._came.set()


@asynccontextmanager
async def watched(url: str, streams: int) -> AsyncIterator[tuple[httpx.AsyncClient, Watch]]:
    """A client, and a watch over `streams` streams of the service that are at work meanwhile."""
    watch, prompts = Watch(), make_prompts(64)
    async with _client(url, streams + 1) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch.follow(client, prompts[index::streams])) for index in range(streams)]
        await watch.until_token()
        yield client, watch
        for task in tasks:
            task.cancel()


def _client(url: str, connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(base_url=url, timeout=START_S, limits=limits, trust_env=False)
