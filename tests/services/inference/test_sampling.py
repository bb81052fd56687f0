"""The inference service over HTTP, with a real model: what it samples and scores, and which requests it refuses."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from services.inference.app import create_app
from tests.services.inference.inference_support import (
    HELLO,
    IDS,
    LONGER,
    checkpoint,
    publication,
    sample,
    settings_for,
    wait_ready,
    worst_difference,
)
from tests.serving import running
from tests.tiny_model import make_tiny_model, tiny_model


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_those_of_a_forward_pass_before_and_after_a_publication(
    service: httpx.Client, root: Path, temperature: float
) -> None:
    for seed in (11, 12):
        assert service.post("/v1/policy", json=checkpoint(root, f"forward-{seed}", seed=seed)).status_code == 200
        made = sample(service, HELLO, LONGER, IDS, n=13, temperature=temperature, max_tokens=20)
        assert worst_difference(tiny_model(seed=seed), made, temperature) < 1e-4
        assert worst_difference(tiny_model(seed=seed + 5), made, temperature) > 0.1
        assert {span["version"] for p in made for r in p["rollouts"] for span in r["versions"]} == {seed}


def test_logprobs_of_a_model_with_a_head_of_its_own_are_those_of_a_forward_pass(tmp_path: Path) -> None:
    model, root = make_tiny_model(tmp_path / "model", seed=1, tied=False), tmp_path / "root"
    with running(create_app(settings_for(model, root))) as url, wait_ready(url) as client:
        for seed in (1, 2):
            if seed != 1:
                make_tiny_model(root / "next", seed=seed, tied=False)
                client.post("/v1/policy", json=publication(root / "next", version=seed)).raise_for_status()
            for temperature in (1.0, 0.5):
                made = sample(client, HELLO, LONGER, IDS, n=8, temperature=temperature, max_tokens=20)
                assert worst_difference(tiny_model(seed=seed, tied=False), made, temperature) < 1e-4


def test_tokens_are_counted_as_prompts_are_sampled_from(service: httpx.Client) -> None:
    prompts = [HELLO, LONGER, IDS]
    counts = service.post("/v1/token_counts", json={"prompts": prompts}).raise_for_status().json()
    made = sample(service, *prompts, n=1, max_tokens=1)
    assert counts == {"tokens": [len(p["prompt_token_ids"]) for p in made], "max_context": 128}


def test_with_top_p_logprobs_are_renormalised_over_the_nucleus(service: httpx.Client, root: Path) -> None:
    service.post("/v1/policy", json=checkpoint(root, "nucleus", seed=13)).raise_for_status()
    model = tiny_model(seed=13)
    for prompt in sample(service, HELLO, n=8, top_p=0.6):
        for rollout in prompt["rollouts"]:
            ids = list(prompt["prompt_token_ids"])
            for token, logprob in zip(rollout["token_ids"], rollout["logprobs"], strict=True):
                with torch.no_grad():
                    chances = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
                kept, mass = [], 0.0
                for candidate in chances.argsort(descending=True).tolist():
                    if mass >= 0.6:
                        break
                    kept.append(candidate)
                    mass += chances[candidate].item()
                assert token in kept
                assert logprob == pytest.approx((chances[token] / mass).log().item(), abs=1e-4)
                ids.append(token)


def test_temperature_zero_takes_the_likeliest_token(service: httpx.Client, root: Path) -> None:
    service.post("/v1/policy", json=checkpoint(root, "greedy", seed=14)).raise_for_status()
    [prompt] = sample(service, HELLO, n=1, temperature=0)
    ids = prompt["prompt_token_ids"] + prompt["rollouts"][0]["token_ids"]
    with torch.no_grad():
        likeliest = tiny_model(seed=14)(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    start = len(prompt["prompt_token_ids"])
    assert ids[start:] == likeliest[start - 1 : -1]


def test_a_seed_fixes_every_token_and_siblings_differ(service: httpx.Client) -> None:
    first, again, other = (sample(service, HELLO, LONGER, n=16, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert len({tuple(rollout["token_ids"]) for rollout in first[0]["rollouts"]}) > 8
    assert sample(service, HELLO, n=16) != sample(service, HELLO, n=16)


def test_a_rollout_ends_with_its_end_token_or_at_max_tokens(service: httpx.Client) -> None:
    end, seen = 1, set()
    # Temperature 10 is nearly uniform over 261 tokens: of 512 rollouts of 12 some end early, most do not.
    for rollout in sample(service, HELLO, n=512, temperature=10, seed=1)[0]["rollouts"]:
        ids = rollout["token_ids"]
        seen.add(rollout["finish_reason"])
        assert end not in ids[:-1]
        assert (rollout["finish_reason"] == "stop") == (ids[-1] == end)
        assert rollout["finish_reason"] == "stop" or len(ids) == 12
        assert len(rollout["logprobs"]) == len(ids)
        assert rollout["versions"][0]["end"] == len(ids)
        assert "<|end|>" not in rollout["text"]
    assert seen == {"stop", "length"}


def test_publishing_during_sampling_leaves_every_rollout_with_the_version_that_made_it(
    service: httpx.Client, root: Path
) -> None:
    publications = [checkpoint(root, f"concurrent-{seed}", seed=seed) for seed in (21, 22, 23)]
    service.post("/v1/policy", json=publications[0]).raise_for_status()
    done = threading.Event()

    def keep_sampling(worker: int) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        while not done.is_set():
            # Every other worker has no seed: its requests share batches with those of the others.
            seed = {"seed": worker} if worker % 2 else {}
            made += sample(service, [HELLO, LONGER, IDS][worker % 3], n=2, max_tokens=8, **seed)
        return made

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(keep_sampling, worker) for worker in range(6)]
        try:
            for one in [*publications[1:], *publications]:
                service.post("/v1/policy", json=one).raise_for_status()
                sample(service, HELLO, n=1)
        finally:
            done.set()
        made = [prompt for worker in workers for prompt in worker.result()]
    versions = set()
    models = {seed: tiny_model(seed=seed) for seed in (21, 22, 23)}
    for prompt in made:
        [version] = {span["version"] for rollout in prompt["rollouts"] for span in rollout["versions"]}
        versions.add(version)
        assert worst_difference(models[version], [prompt]) < 1e-4
    assert len(versions) > 1


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"prompts": [HELLO, {}]}, "prompts.1", "exactly one of messages and token_ids"),
        ({"prompts": [HELLO | IDS]}, "prompts.0", "exactly one of messages and token_ids"),
        ({"prompts": [{"token_ids": [3, 261]}]}, "prompts.0.token_ids", "holds 261"),
        ({"prompts": [{"token_ids": [-1]}]}, "prompts.0.token_ids", "holds -1"),
        ({"prompts": [{"token_ids": []}]}, "prompts.0.token_ids", "empty"),
        ({"prompts": []}, "prompts", ""),
        ({"prompts": [HELLO], "sampling": {"max_tokens": 122}}, "sampling.max_tokens", "context of 128"),
        ({"prompts": [{"token_ids": [9] * 128}], "sampling": {"max_tokens": 1}}, "sampling.max_tokens", "128 tokens"),
        ({"prompts": [HELLO], "sampling": {"temperature": -1}}, "sampling.temperature", ""),
        ({"prompts": [HELLO], "best_of": 3}, "best_of", ""),
        ({"prompts": [HELLO], "n": 0}, "n", ""),
        ({"prompts": [HELLO], "sampling": {"top_k": 3}}, "sampling.top_k", ""),
        (
            {"prompts": [{"token_ids": [9] * 128}], "sampling": {"clamp_max_tokens": True}},
            "sampling.max_tokens",
            "128 tokens",
        ),
    ],
)
def test_a_request_that_cannot_be_met_names_its_field(
    service: httpx.Client, body: dict[str, Any], field: str, says: str
) -> None:
    response = service.post("/v1/rollouts", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["field"] == field
    assert says in response.json()["detail"]


def test_a_prompt_that_just_fits_is_sampled(service: httpx.Client) -> None:
    [prompt] = sample(service, {"token_ids": [9] * 120}, n=2, max_tokens=8)
    assert len(prompt["rollouts"]) == 2


def test_max_tokens_is_cut_to_what_the_longest_prompt_leaves_when_the_request_says_so(service: httpx.Client) -> None:
    prompts = [{"token_ids": [9] * 120}, {"token_ids": [9] * 3}]
    made = sample(service, *prompts, n=8, max_tokens=5000, clamp_max_tokens=True, ignore_end=True)
    assert {len(rollout["token_ids"]) for prompt in made for rollout in prompt["rollouts"]} == {8}


def test_with_ignore_end_every_rollout_has_all_its_tokens(service: httpx.Client) -> None:
    [prompt] = sample(service, HELLO, n=256, temperature=10, seed=1, ignore_end=True)
    assert {len(rollout["token_ids"]) for rollout in prompt["rollouts"]} == {12}
    assert any(1 in rollout["token_ids"] for rollout in prompt["rollouts"])


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_a_forward_pass_under_the_version_served(service: httpx.Client, root: Path) -> None:
    service.post("/v1/policy", json=checkpoint(root, "scored", seed=15)).raise_for_status()
    made = sample(service, HELLO, LONGER, n=5, temperature=0.5)
    sequences = [
        {"prompt_token_ids": prompt["prompt_token_ids"], "token_ids": rollout["token_ids"]}
        for prompt in made
        for rollout in prompt["rollouts"]
    ]
    scored = service.post("/v1/score", json={"sequences": sequences}).json()["sequences"]
    assert {one["version"] for one in scored} == {15}
    replayed = [
        {"prompt_token_ids": sequence["prompt_token_ids"], "rollouts": [sequence | {"logprobs": one["logprobs"]}]}
        for sequence, one in zip(sequences, scored, strict=True)
    ]
    assert worst_difference(tiny_model(seed=15), replayed) < 1e-4


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"prompt_token_ids": [9], "token_ids": [70, 261]}, "sequences.1.token_ids"),
        ({"prompt_token_ids": [-1], "token_ids": [70]}, "sequences.1.prompt_token_ids"),
        ({"prompt_token_ids": [9], "token_ids": []}, "sequences.1.token_ids"),
        ({"prompt_token_ids": [], "token_ids": [9]}, "sequences.1.prompt_token_ids"),
        ({"prompt_token_ids": [9] * 100, "token_ids": [9] * 29}, "sequences.1.token_ids"),
        ({"prompt_token_ids": [9], "token_ids": [9], "temperature": 1}, "sequences.1.temperature"),
    ],
)
def test_a_sequence_that_cannot_be_scored_names_its_field(
    service: httpx.Client, wrong: dict[str, Any], field: str
) -> None:
    whole = {"prompt_token_ids": [9] * 100, "token_ids": [9] * 28}
    assert service.post("/v1/score", json={"sequences": [whole]}).status_code == 200
    response = service.post("/v1/score", json={"sequences": [whole, wrong]})
    assert (response.status_code, response.json()["field"]) == (422, field)


# ------------------------------------------------------------------------------------------------------------ hang-ups


@pytest.mark.parametrize("path", ["/v1/rollouts", "/v1/completions"])
def test_a_client_that_hangs_up_stops_its_tokens(service: httpx.Client, path: str) -> None:
    # Minutes of work, all of it in front of what is asked next.
    body: dict[str, Any] = {
        "/v1/rollouts": {"prompts": [IDS] * 200, "n": 1024, "sampling": {"max_tokens": 120, "ignore_end": True}},
        "/v1/completions": {"model": "policy", "prompt": [[9, 70, 71]] * 2000, "n": 128, "max_tokens": 120},
    }[path]
    content = json.dumps(body).encode()
    with socket.create_connection((service.base_url.host, service.base_url.port), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        deadline = time.monotonic() + 30
        while "vpd_engine_running 1.0" not in service.get("/metrics").text:
            assert time.monotonic() < deadline
    sample(service, HELLO, n=1, max_tokens=2)
