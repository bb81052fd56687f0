"""The inference service measured: the gateway against bare vLLM, vLLM against transformers, publications, start-up.

    .venv/bin/python -m bench.inference [--quick] [gateway] [engines] [publish] [start]

    gateway   new tokens a second of 32 clients through the gateway, and of the same clients asking the same vLLM server
              directly, turn and turn about; 64 tokens after prompts of 8 to 32, with log-probs
    engines   the same load on the gateway over vLLM and over transformers, turn and turn about, and one request of 16
              prompts with 8 rollouts each, as the collector makes it in a step
    publish   seconds from a publication with its canary to its answer: while nothing is sampled, and under 8 streams of
              tokens; how long no stream had a token then, and in as long a time without a publication
    start     seconds from the start of the process until it is ready

Needs the environment of vLLM (`./vpd install vllm`). Everything runs on this machine, and so do the clients; each
engine computes in one thread. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from transformers.utils.logging import disable_progress_bar

from bench.inference_service import (
    SIZES,
    Ask,
    ask_gateway,
    ask_vllm,
    bare_vllm,
    gateway,
    make_model,
    post,
    tokens_per_s,
    watched,
)
from shared.settings import LearnerSettings, ModelSettings
from trainer.policy import Policy

CLIENTS = 32
STREAMS = 8
ROLLOUTS = 8
ENGINES = ("vllm", "transformers")
REQUESTS = {"0.4M": 320, "17.5M": 128}
Json = dict[str, Any]


def measure_gateway(folder: Path, quick: bool) -> None:
    """Tokens/s through the gateway beside those of the same vLLM server, asked directly."""
    row = "{:8} {:>14} {:>14} {:>8}  {}"
    say(row.format("model", "gateway tok/s", "bare vLLM", "ratio", "rounds"))
    for size in _sizes(("0.4M", "17.5M"), quick):
        model = make_model(folder / size, size)
        with bare_vllm(model) as vllm, gateway(model, "vllm", url=vllm) as ours:
            load = {"clients": CLIENTS, "requests": 64 if quick else REQUESTS[size]}
            sides = _in_turn([(vllm, ask_vllm), (ours, ask_gateway)], load, rounds=1 if quick else 9)
        bare, through = sides
        ratios = [one / other for one, other in zip(through, bare, strict=True)]
        say(row.format(size, _median(through), _median(bare), f"{statistics.median(ratios):.1%}", _percent(ratios)))


def measure_engines(folder: Path, quick: bool) -> None:
    """Tokens/s of vLLM beside those of transformers, both behind the gateway."""
    row = "{:8} {:16} {:>10} {:>14} {:>8}  {}"
    say(row.format("model", "load", "vLLM tok/s", "transformers", "ratio", "rounds"))
    loads: list[tuple[str, Ask, dict[str, int]]] = [
        (f"{CLIENTS} clients", ask_gateway, {"clients": CLIENTS, "requests": 64 if quick else 192}),
        (
            f"1 x 16 prompts x {ROLLOUTS}",
            functools.partial(ask_gateway, n=ROLLOUTS),
            {"clients": 1, "requests": 1 if quick else 3, "prompts": 16},
        ),
    ]
    for size in _sizes(("0.4M", "17.5M"), quick):
        with ExitStack() as stack:
            urls = [stack.enter_context(gateway(make_model(folder / e / size, size), e)) for e in ENGINES]
            for name, ask, load in loads:
                ours, peer = _in_turn([(url, ask) for url in urls], load, rounds=1 if quick else 3)
                ratios = [one / other for one, other in zip(ours, peer, strict=True)]
                middle = f"{statistics.median(ratios):.2f} x"
                say(row.format(size, name, _median(ours), _median(peer), middle, _span(ratios)))


def measure_publish(folder: Path, quick: bool) -> None:
    """Seconds that publications take, and for how long no token comes."""
    row = "{:8} {:>6} {:14} {:>8} {:>14} {:>11} {:>10} {:>10}"
    say(row.format("model", "MB", "engine", "idle s", "(rounds)", "streaming s", "no token s", "usual s"))
    for size in _sizes(tuple(SIZES), quick):
        for engine in ENGINES:
            model = make_model(folder / engine / size, size)
            announced = _publication(model)
            with gateway(model, engine) as url:
                idle, busy = asyncio.run(_publications(url, announced, rounds=2 if quick else 7))
            megabytes = (model / "model.safetensors").stat().st_size / 2**20
            columns = [f"{statistics.median(values):.3f}" for values in zip(*busy, strict=True)]
            middle = f"{statistics.median(idle):.3f}"
            say(row.format(size, f"{megabytes:.1f}", engine, middle, _span(idle), *columns))


def measure_start(folder: Path, quick: bool) -> None:
    """Seconds from the start of the service's process until it is ready."""
    row = "{:8} {:14} {:>8}  {}"
    say(row.format("model", "engine", "s", "rounds"))
    for size in _sizes(("0.4M", "17.5M"), quick):
        for engine in ENGINES:
            model, took = make_model(folder / engine / size, size), []
            for number in range(1 if quick else 3):
                started = time.perf_counter()
                with gateway(model, engine):
                    took.append(time.perf_counter() - started)
                note(f"{engine}, start {number + 1}: {took[-1]:.1f} s")
            say(row.format(size, engine, f"{statistics.median(took):.1f}", _span(took)))


def _in_turn(sides: Sequence[tuple[str, Ask]], load: dict[str, int], *, rounds: int) -> list[list[float]]:
    """Tokens/s of each side, by round; what is slow at first has been asked for before."""
    made: list[list[float]] = [[] for _ in sides]
    for url, ask in sides:
        tokens_per_s(url, ask, **(load | {"requests": load["clients"]}))
    for number in range(rounds):
        for values, (url, ask) in zip(made, sides, strict=True):
            values.append(tokens_per_s(url, ask, **load))
        note(f"round {number + 1} of {rounds}: " + ", ".join(f"{values[-1]:.0f} tokens/s" for values in made))
    return made


def _publication(model: Path) -> Json:
    """Of the model's own weights, with their canary, as the trainer announces it; without a version."""
    hide_progress: Callable[[], None] = disable_progress_bar
    hide_progress()
    policy = Policy(model, ModelSettings(device="cpu"), LearnerSettings(), temperature=1.0)
    canary = policy.canary()
    assert canary is not None
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    return {"run_id": "bench", "path": str(model), "sha256": digest, "canary": canary.model_dump()}


async def _publications(
    url: str, announced: Json, *, rounds: int
) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Seconds of publications while nothing is sampled; and, under streams, of others, with the longest time without a
    token around each, and around as long a time without a publication."""
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        idle = []
        for version in range(1, rounds + 1):
            start, end = await _publish(client, announced | {"version": version})
            idle.append(end - start)
            note(f"publication {version}: {idle[-1]:.3f} s")
    busy = []
    async with watched(url, STREAMS) as (client, watch):
        for version in range(rounds + 1, 2 * rounds + 1):
            start, end = await _publish(client, announced | {"version": version})
            await watch.until_token()
            usual = time.perf_counter()
            await asyncio.sleep(end - start)
            after = time.perf_counter()
            await watch.until_token()
            busy.append((end - start, watch.longest_gap(start, end), watch.longest_gap(usual, after)))
            note(f"publication {version} under {STREAMS} streams: {end - start:.3f} s, no token {busy[-1][1]:.3f} s")
    return idle, busy


async def _publish(client: httpx.AsyncClient, announced: Json) -> tuple[float, float]:
    """When it was asked for, and when it was answered."""
    start = time.perf_counter()
    await post(client, "/v1/policy", announced)
    return start, time.perf_counter()


def _sizes(all_of_them: Sequence[str], quick: bool) -> Sequence[str]:
    return all_of_them[:1] if quick else all_of_them


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _percent(values: Sequence[float]) -> str:
    return f"{min(values):.1%} to {max(values):.1%}"


def say(line: str) -> None:
    """A result, at once."""
    print(line.rstrip(), flush=True)


def note(line: str) -> None:
    """Progress."""
    print(f"    {line}", file=sys.stderr, flush=True)


PARTS = {
    "gateway": measure_gateway,
    "engines": measure_engines,
    "publish": measure_publish,
    "start": measure_start,
}


def main() -> None:
    """Print a table for each part. What it started ends with it, also on SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="the smallest model, once: to see it run")
    arguments = parser.parse_args()
    if wrong := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {wrong[0]!r}; they are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for part in arguments.parts or PARTS:
        say(f"{part}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
        with tempfile.TemporaryDirectory(prefix="vpd-bench-") as folder:
            PARTS[part](Path(folder), arguments.quick)
        say("")


if __name__ == "__main__":
    main()
