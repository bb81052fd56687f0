"""The gateway over a real vLLM: exact log-probs, exact versions, weights without a restart, and no silent staleness."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.services.inference.vllm.vllm_support import (
    CANARY_IDS,
    CONTEXT,
    HIDDEN,
    PROMPTS,
    gateway,
    kill,
    logprobs,
    oracle,
    processes_below,
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
LONG = 900
FAR = 0.5


@pytest.fixture(scope="module", params=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tied")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tied: bool) -> Path:
    return tmp_path_factory.mktemp("tied" if tied else "untied")


@pytest.fixture(scope="module")
def model(root: Path, tied: bool) -> Path:
    return make_tiny_model(root / "initial", seed=1, hidden=HIDDEN, context=CONTEXT, tied=tied)


@pytest.fixture(scope="module")
def service(model: Path, root: Path) -> Iterator[httpx.Client]:
    """One gateway and vLLM for the tests of a kind of model; those that publish leave another version behind."""
    with gateway(settings_for(model, root)) as client:
        yield client


# -------------------------------------------------------------------------------------------------------- log-probs


def test_logprobs_are_the_trainers_before_and_after_a_publication(
    service: httpx.Client, model: Path, root: Path, tied: bool
) -> None:
    served = [(model, 0)] if service.get("/v1/policy").json()["run_id"] is None else []
    for directory, version in [*served, (root / "seed-11", 11), (root / "seed-12", 12)]:
        if version:
            publish(service, root, seed=version, tied=tied).raise_for_status()
        for temperature in (1.0, 0.5):
            made = sample(service, *PROMPTS, n=8, temperature=temperature, seed=version)
            assert worst(directory, made, temperature) < CLOSE
            assert {span["version"] for p in made for r in p["rollouts"] for span in r["versions"]} == {version}
    assert worst(model, made, 0.5) > FAR


def test_scores_are_the_trainers_to_the_last_position_of_the_context(
    service: httpx.Client, root: Path, tied: bool
) -> None:
    publish(service, root, seed=13, tied=tied).raise_for_status()
    generator = torch.Generator().manual_seed(0)
    sequences = [
        {"prompt_token_ids": ids[:start], "token_ids": ids[start:]}
        for length, start in ((2, 1), (40, 17), (CONTEXT, 600), (CONTEXT, 1))
        for ids in [torch.randint(0, 261, (length,), generator=generator).tolist()]
    ]
    answer = service.post("/v1/score", json={"sequences": sequences}).json()["sequences"]
    for asked, scored in zip(sequences, answer, strict=True):
        assert scored["version"] == 13
        expected = logprobs(root / "seed-13", asked["prompt_token_ids"], asked["token_ids"])
        assert scored["logprobs"] == pytest.approx(expected, abs=CLOSE)


def test_a_prompt_sampled_before_a_publication_is_computed_anew_after_it(
    service: httpx.Client, root: Path, tied: bool
) -> None:
    long = {"token_ids": list(range(20, 120))}
    for seed in (14, 15, 14):
        publish(service, root, seed=seed, tied=tied).raise_for_status()
        # Had the keys and values of the prompt stayed, these would be off by nats.
        assert worst(root / f"seed-{seed}", sample(service, long, max_tokens=8)) < CLOSE


def test_with_a_seed_the_same_tokens_come_again_and_prompts_do_not_share_their_draws(service: httpx.Client) -> None:
    twice = [PROMPTS[0], PROMPTS[0]]
    first, again, other = (sample(service, *twice, n=6, seed=seed, temperature=2.0) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert first[0]["rollouts"] != first[1]["rollouts"]
    assert len({tuple(rollout["token_ids"]) for rollout in first[0]["rollouts"]}) == 6


def test_more_responses_than_rows_fit_a_batch_are_sampled_in_parts_that_differ(service: httpx.Client) -> None:
    [prompt] = sample(service, PROMPTS[0], n=100, seed=3, temperature=2.0, max_tokens=16)
    assert len(prompt["rollouts"]) == 100
    assert len({tuple(rollout["token_ids"]) for rollout in prompt["rollouts"]}) > 95


def test_temperature_zero_takes_the_likeliest_token_for_every_sibling(
    service: httpx.Client, root: Path, tied: bool
) -> None:
    publish(service, root, seed=16, tied=tied).raise_for_status()
    [prompt] = sample(service, PROMPTS[0], n=3, temperature=0, max_tokens=10)
    one, two, three = (rollout["token_ids"] for rollout in prompt["rollouts"])
    assert one == two == three
    ids = torch.tensor([prompt["prompt_token_ids"] + one])
    with torch.no_grad():
        likeliest = oracle(root / "seed-16").network(ids).logits[0].argmax(-1).tolist()
    start = len(prompt["prompt_token_ids"])
    assert one == likeliest[start - 1 : -1][: len(one)]
    assert prompt["rollouts"][0]["logprobs"] == [0.0] * len(one)


def test_a_response_ends_with_its_end_token_unless_that_is_ignored(service: httpx.Client) -> None:
    end = 1
    made = sample(service, PROMPTS[0], n=200, temperature=2, max_tokens=120, seed=1)[0]["rollouts"]
    assert {rollout["finish_reason"] for rollout in made} == {"stop", "length"}
    for rollout in made:
        assert end not in rollout["token_ids"][:-1]
        assert (rollout["finish_reason"] == "stop") == (rollout["token_ids"][-1] == end)
    ignoring = sample(service, PROMPTS[0], n=200, temperature=2, max_tokens=120, seed=1, ignore_end=True)
    assert {len(rollout["token_ids"]) for rollout in ignoring[0]["rollouts"]} == {120}


# ------------------------------------------------------------------------------------------------------- publishing


def test_a_publication_during_32_generations_loses_none_and_every_token_is_of_the_version_its_span_says(
    service: httpx.Client, root: Path, tied: bool
) -> None:
    publish(service, root, seed=21, tied=tied).raise_for_status()
    make_tiny_model(root / "seed-22", seed=22, hidden=HIDDEN, context=CONTEXT, tied=tied)
    announced = publication(root / "seed-22", version=22)

    def generate(worker: int) -> list[dict[str, Any]]:
        prompt = {"token_ids": [9, 70 + worker, 71]}
        return sample(service, prompt, n=1, max_tokens=LONG, ignore_end=True)

    with ThreadPoolExecutor(33) as pool:
        workers = [pool.submit(generate, worker) for worker in range(32)]
        wait_until(lambda: _metric(service, "vpd_engine_running") == 32)
        published = pool.submit(service.post, "/v1/policy", json=announced)
        made = [prompt for worker in workers for prompt in worker.result()]
        published.result().raise_for_status()
    switched = 0
    for prompt in made:
        [rollout] = prompt["rollouts"]
        spans = rollout["versions"]
        assert [span["start"] for span in spans] == [0, *[span["end"] for span in spans[:-1]]]
        assert spans[-1]["end"] == len(rollout["token_ids"]) == LONG
        switched += len(spans) == 2
        for span in spans:
            expected = logprobs(root / f"seed-{span['version']}", prompt["prompt_token_ids"], rollout["token_ids"])
            part = slice(span["start"], span["end"])
            assert rollout["logprobs"][part] == pytest.approx(expected[part], abs=CLOSE)
    assert switched > 0


@pytest.mark.parametrize("spoiled", ["truncated", "shape", "NaN", "missing"])
def test_a_checkpoint_that_cannot_be_served_is_refused_and_the_old_weights_go_on(
    service: httpx.Client, root: Path, tied: bool, spoiled: str
) -> None:
    publish(service, root, seed=31, tied=tied).raise_for_status()
    directory = root / f"spoiled-{spoiled}"
    make_tiny_model(directory, seed=32, hidden=HIDDEN, context=CONTEXT, tied=tied)
    announced = publication(directory, version=32)
    file, norm = directory / "model.safetensors", "model.norm.weight"
    if spoiled == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif spoiled != "missing":
        bad = torch.ones(HIDDEN - 1) if spoiled == "shape" else torch.full((HIDDEN,), float("nan"))
        save_file(load_file(file) | {norm: bad}, file)
    announced["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    if spoiled == "missing":
        shutil.rmtree(directory)
    response = service.post("/v1/policy", json=announced)
    assert (response.status_code, response.json()["field"]) == (422, "path")
    assert service.get("/v1/policy").json()["version"] == 31
    assert worst(root / "seed-31", sample(service, *PROMPTS)) < CLOSE


@pytest.mark.parametrize("part", ["engine", "server"])
def test_an_engine_killed_in_the_midst_of_rollouts_comes_back_with_the_version_published_last(
    service: httpx.Client, root: Path, tied: bool, part: str
) -> None:
    publish(service, root, seed=41, tied=tied).raise_for_status()
    restarts = _metric(service, "vpd_engine_restarts_total")
    body = {"prompts": PROMPTS, "n": 16, "sampling": {"max_tokens": LONG, "ignore_end": True}}
    with ThreadPoolExecutor(1) as pool:
        rollouts = pool.submit(service.post, "/v1/rollouts", json=body)
        wait_until(lambda: _metric(service, "vpd_engine_running") > 0)
        kill(part)
        lost = rollouts.result()
    assert (lost.status_code, "retry-after" in lost.headers) == (503, True)
    wait_until(lambda: _metric(service, "vpd_engine_restarts_total") == restarts + 1)
    wait_until(lambda: service.get("/readyz").status_code == 200, lambda: service.get("/readyz").text)
    assert service.get("/v1/policy").json()["version"] == 41
    # All that this vLLM has been asked so far: one token to try it, and the canary.
    assert _metric(service, "vllm:prompt_tokens_total") == 1 + len(CANARY_IDS)
    assert _metric(service, "vpd_policy_canary_nats") < CLOSE
    assert worst(root / "seed-41", sample(service, *PROMPTS)) < CLOSE


def test_a_client_that_hangs_up_stops_its_tokens(service: httpx.Client) -> None:
    body = {"prompts": PROMPTS, "n": 16, "sampling": {"max_tokens": LONG, "ignore_end": True}}
    tokens = _metric(service, "vpd_engine_tokens_total")
    with (
        httpx.Client(base_url=service.base_url, timeout=0.2) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post("/v1/rollouts", json=body)
    wait_until(lambda: _metric(service, "vpd_engine_running") == 0)
    # Ended for want of a reader, not because all their tokens were there.
    assert _metric(service, "vpd_engine_tokens_total") - tokens < 48 * LONG


# -------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("temperature", [2.5, 0.009, 1e-6])
def test_a_temperature_that_vllm_does_not_sample_at_names_its_field(service: httpx.Client, temperature: float) -> None:
    response = service.post("/v1/rollouts", json={"prompts": PROMPTS, "sampling": {"temperature": temperature}})
    assert (response.status_code, response.json()["field"]) == (422, "sampling.temperature")


def test_logprobs_at_the_lowest_temperature_are_the_trainers(service: httpx.Client, root: Path, tied: bool) -> None:
    publish(service, root, seed=17, tied=tied).raise_for_status()
    made = sample(service, *PROMPTS, n=8, temperature=0.01)
    # Rounding of the logits is divided by the temperature as well.
    assert worst(root / "seed-17", made, 0.01) < CLOSE / 0.01


def test_a_stream_has_the_responses_of_its_seed_however_many_parts_they_are_asked_for_in(
    service: httpx.Client,
) -> None:
    client = openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none")
    wanted: dict[str, Any] = {"model": "policy", "prompt": [9, 70, 71], "max_tokens": 6, "seed": 1, "n": 100}
    whole = [choice.text for choice in client.completions.create(**wanted).choices]
    texts = dict.fromkeys(range(100), "")
    with client.completions.create(**wanted, stream=True) as stream:
        for choice in (choice for chunk in stream for choice in chunk.choices):
            texts[choice.index] += choice.text
    assert list(texts.values()) == whole
    assert len(set(whole)) > 50


def test_an_openai_client_sees_the_tokens_as_they_come(service: httpx.Client) -> None:
    client = openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none")
    whole = client.completions.create(model="policy", prompt=[9, 70, 71], max_tokens=60, seed=1)
    with client.completions.create(model="policy", prompt=[9, 70, 71], max_tokens=60, seed=1, stream=True) as stream:
        chunks = [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert "".join(chunks) == whole.choices[0].text
    assert len([chunk for chunk in chunks if chunk]) > 3


def test_nobody_but_the_gateway_reaches_vllms_own_routes(service: httpx.Client) -> None:
    for path in ("/pause", "/resume", "/collective_rpc", "/update_weights", "/inference/v1/generate", "/sleep"):
        assert service.post(path, json={}).status_code == 404
    below = processes_below(os.getpid())
    [(server, command)] = [(pid, command) for pid, command in below.items() if "--uds" in command]
    assert not _sockets(server) & {f"socket:[{inode}]" for inode in _listening()}
    directory = Path(command.split("--uds ")[1].split()[0]).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_engines_own_figures_are_in_the_metrics(service: httpx.Client) -> None:
    before = _metric(service, "vpd_engine_tokens_total")
    sample(service, PROMPTS[0], n=2, max_tokens=10, ignore_end=True)
    assert _metric(service, "vpd_engine_tokens_total") == before + 20
    text = service.get("/metrics").text
    assert "vllm:kv_cache_usage_perc" in text
    assert "vllm:time_to_first_token_seconds_bucket" in text
    assert text.count("# TYPE process_resident_memory_bytes") == 1


def _metric(client: httpx.Client, name: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def _sockets(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except OSError:
            continue
    return found


def _listening() -> set[str]:
    """Inodes of all TCP sockets that listen on this machine."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A"}
