"""The inference service over HTTP, with a real model: what it samples, what it serves, what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.inference.app import create_app
from shared.errors import SettingsError
from shared.settings import InferenceSettings, ModelSettings, Settings
from tests.serving import running
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
        deadline = time.monotonic() + 30
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, client.get("/readyz").text
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def service(tiny_model_dir: Path, root: Path) -> Iterator[httpx.Client]:
    """A service all tests of this module share; those that publish leave another version behind."""
    with running(create_app(settings_for(tiny_model_dir, root, max_batch_rows=24))) as url, wait_ready(url) as client:
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


# ---------------------------------------------------------------------------------------------------------- sampling


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


# -------------------------------------------------------------------------------------------------------- publishing


def truncated(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors")

    return spoil


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncated, "cannot be read"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"not safetensors at all"), "cannot be read"),
        (edited(lambda weights: weights.update({NORM: torch.ones(31)})), r"has shape \[31\]"),
        (edited(lambda weights: weights.update({NORM: torch.full((32,), float("nan"))})), "holds NaN or infinite"),
        (edited(lambda weights: weights.update({NORM: torch.full((32,), float("inf"))})), "holds NaN or infinite"),
        (edited(lambda weights: weights.update({NORM: torch.ones(32, dtype=torch.int32)})), "has type torch.int32"),
        (edited(lambda weights: weights.pop(NORM)), f"lacks 1 tensors of the model, such as {NORM}"),
        (edited(lambda weights: weights.update({"extra": torch.ones(1)})), "tensors that the model has not"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_the_old_weights_stay(
    service: httpx.Client, root: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    state, before = service.get("/v1/policy").json(), sample(service, HELLO, seed=1)
    directory = root / f"bad-{tmp_path.name}"
    checkpoint(root, directory.name, seed=99)
    spoil(directory)
    response = service.post("/v1/policy", json=publication(directory, version=99))
    assert (response.status_code, response.json()["field"]) == (422, "path")
    assert re.search(says, response.json()["detail"])
    assert service.get("/v1/policy").json() == state
    assert sample(service, HELLO, seed=1) == before


def test_a_checkpoint_that_is_not_the_one_announced_is_refused(service: httpx.Client, root: Path) -> None:
    announced = checkpoint(root, "other-bytes", seed=31) | {"sha256": "0" * 64}
    response = service.post("/v1/policy", json=announced)
    assert (response.status_code, response.json()["field"]) == (422, "sha256")


@pytest.mark.parametrize("escape", ["absolute", "dots", "link to a directory", "link to a file", "missing", "nul"])
def test_only_directories_below_the_policy_root_are_served(
    service: httpx.Client, root: Path, tmp_path: Path, escape: str
) -> None:
    announced = checkpoint(tmp_path, "outside", seed=32)
    outside, link = tmp_path / "outside", root / f"link-{tmp_path.name}"
    if escape == "dots":
        shutil.copytree(outside, root.parent / "beside", dirs_exist_ok=True)
        announced["path"] = "../beside"
    elif escape == "link to a directory":
        link.symlink_to(outside)
        announced["path"] = str(link)
    elif escape == "link to a file":
        link.mkdir()
        (link / "model.safetensors").symlink_to(outside / "model.safetensors")
        announced["path"] = str(link)
    elif escape == "missing":
        announced["path"] = "no/such/directory"
    elif escape == "nul":
        announced["path"] = "a\x00b"
    response = service.post("/v1/policy", json=announced)
    assert (response.status_code, response.json()["field"]) == (422, "path")
    assert service.get("/v1/policy").json()["version"] != 32


def test_publishing_the_same_again_does_nothing_even_when_its_files_are_gone(service: httpx.Client, root: Path) -> None:
    announced = checkpoint(root, "twice", seed=33)
    first = service.post("/v1/policy", json=announced)
    shutil.rmtree(root / "twice")
    assert service.post("/v1/policy", json=announced).json() == first.json()


def test_an_older_version_of_the_run_can_be_served_again(service: httpx.Client, root: Path) -> None:
    for seed in (42, 41):
        assert service.post("/v1/policy", json=checkpoint(root, f"back-{seed}", seed=seed)).status_code == 200
    assert service.get("/v1/policy").json()["version"] == 41
    assert worst_difference(tiny_model(seed=41), sample(service, HELLO)) < 1e-4


def test_a_path_may_be_relative_to_the_policy_root(service: httpx.Client, root: Path) -> None:
    announced = checkpoint(root, "relative", seed=43) | {"path": "relative"}
    assert service.post("/v1/policy", json=announced).json()["version"] == 43


def test_a_poll_answers_when_another_version_is_served_and_not_before(service: httpx.Client, root: Path) -> None:
    service.post("/v1/policy", json=checkpoint(root, "poll-51", seed=51)).raise_for_status()
    same = {"unlike": "run-1:51"}
    assert service.get("/v1/policy", params=same | {"wait_s": 0.05}).json()["version"] == 51
    assert service.get("/v1/policy", params={"unlike": ":0", "wait_s": 60}).json()["version"] == 51
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.get, "/v1/policy", params=same | {"wait_s": 60})
        service.post("/v1/policy", json=checkpoint(root, "poll-52", seed=52)).raise_for_status()
        assert waiting.result(20).json()["version"] == 52


@pytest.mark.parametrize(
    ("params", "field"),
    [({"unlike": "run"}, "unlike"), ({"unlike": "run:x"}, "unlike"), ({"wait_s": 61}, "wait_s")],
)
def test_a_poll_that_cannot_be_read_names_its_field(service: httpx.Client, params: dict[str, str], field: str) -> None:
    response = service.get("/v1/policy", params=params)
    assert (response.status_code, response.json()["field"]) == (422, field)


# ----------------------------------------------------------------------------------------------------------- restart


def test_a_restarted_service_serves_the_version_published_last(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_model_dir, tmp_path / "root")
    with running(create_app(settings)) as url, wait_ready(url) as client:
        assert client.get("/v1/policy").json()["run_id"] is None
        for seed in (1, 2):
            client.post("/v1/policy", json=checkpoint(tmp_path / "root", f"v{seed}", seed=seed)).raise_for_status()
        state = client.get("/v1/policy").json()
    with running(create_app(settings)) as url, wait_ready(url) as client:
        assert client.get("/v1/policy").json() == state
        assert worst_difference(tiny_model(seed=2), sample(client, HELLO)) < 1e-4
        assert "vpd_policy_version 2.0" in client.get("/metrics").text


@pytest.mark.parametrize("damage", ["checkpoint gone", "pointer torn", "another model"])
def test_a_pointer_that_leads_nowhere_leaves_the_initial_model(
    tiny_model_dir: Path, tmp_path: Path, damage: str
) -> None:
    root = tmp_path / "root"
    settings = settings_for(tiny_model_dir, root)
    pointer = root / "current_policy.json"
    announced = checkpoint(root, "v1", seed=1)
    pointer.write_text(json.dumps({"model": str(tiny_model_dir), "publication": announced}))
    if damage == "checkpoint gone":
        shutil.rmtree(root / "v1")
    elif damage == "pointer torn":
        pointer.write_text(pointer.read_text()[:40])
    else:
        pointer.write_text(json.dumps({"model": "another", "publication": announced}))
    with running(create_app(settings)) as url, wait_ready(url) as client:
        assert client.get("/v1/policy").json()["run_id"] is None


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


def test_the_gateway_loads_neither_torch_nor_transformers() -> None:
    code = "import services.inference.app, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_what_the_learner_saves_can_be_published(service: httpx.Client, root: Path, tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    model.to(torch.bfloat16).save_pretrained(root / "learner")
    saved = AutoModelForCausalLM.from_pretrained(root / "learner", dtype=torch.float32)
    announced = publication(root / "learner", version=61)
    assert service.post("/v1/policy", json=announced).status_code == 200
    # The head is tied to the embeddings: had it kept its old values, these would be off by nats.
    assert worst_difference(saved, sample(service, HELLO)) < 1e-4


# ----------------------------------------------------------------------------------------------------- OpenAI routes


@pytest.fixture(scope="module")
def client(service: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0)


def test_the_policy_is_listed_by_its_name(client: openai.OpenAI) -> None:
    assert "policy" in [model.id for model in client.models.list()]
    assert client.models.retrieve("policy").id == "policy"


def test_a_chat_completion_is_what_the_same_seed_gives_natively(client: openai.OpenAI, service: httpx.Client) -> None:
    made = client.chat.completions.create(
        model="policy", messages=HELLO["messages"], n=3, seed=4, max_tokens=12, logprobs=True, temperature=0.7
    )
    [native] = sample(service, HELLO, n=3, seed=4, temperature=0.7)
    assert [choice.message.content for choice in made.choices] == [r["text"] for r in native["rollouts"]]
    assert [choice.finish_reason for choice in made.choices] == [r["finish_reason"] for r in native["rollouts"]]
    for choice, rollout in zip(made.choices, native["rollouts"], strict=True):
        assert choice.logprobs is not None
        assert [token.logprob for token in choice.logprobs.content or []] == rollout["logprobs"]
    assert made.usage is not None
    assert made.usage.completion_tokens == sum(len(r["token_ids"]) for r in native["rollouts"])
    assert made.usage.prompt_tokens == len(native["prompt_token_ids"])


def test_without_max_tokens_a_chat_may_fill_the_context(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="policy", messages=HELLO["messages"], seed=1)
    assert made.usage is not None
    assert made.usage.total_tokens == 128 or made.choices[0].finish_reason == "stop"


def test_a_text_completion_takes_texts_and_token_ids(client: openai.OpenAI) -> None:
    texts = client.completions.create(model="policy", prompt=["ab", "cd"], n=2, seed=1, max_tokens=5, logprobs=0)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    ids = client.completions.create(model="policy", prompt=[9, 70, 71], seed=1, max_tokens=5)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3
    shown = texts.choices[0].logprobs
    assert shown is not None
    assert len(shown.tokens or []) == len(shown.token_logprobs or []) == len(shown.text_offset or []) <= 5


def test_a_stream_brings_the_same_text(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "policy", "messages": HELLO["messages"], "seed": 4, "max_tokens": 12, "n": 2}
    whole = client.chat.completions.create(**asked)
    texts, reasons, usage = ["", ""], ["", ""], None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_a_text_stream_brings_the_same_text(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "policy", "prompt": "ab", "seed": 4, "max_tokens": 12}
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == client.completions.create(**asked).choices[0].text


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "policy", "prompt": "ab", "seed": 4, "max_tokens": 30, "logprobs": 0}
    whole = client.completions.create(**asked).choices[0]
    letter = next(c for c in whole.text[5:] if c.isascii())
    cut = client.completions.create(**asked, stop=["never in it", letter]).choices[0]
    assert cut.text == whole.text[: whole.text.index(letter)]
    assert cut.finish_reason == "stop"
    assert cut.logprobs is not None
    assert whole.logprobs is not None
    assert len(cut.logprobs.tokens or []) < len(whole.logprobs.tokens or [])


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-x", messages=HELLO["messages"])
    assert "the policy is called 'policy'" in str(caught.value.body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 5),
        ("tools", []),
        ("presence_penalty", 0.5),
        ("top_logprobs", 5),
        ("response_format", {"type": "json_object"}),
        ("max_tokens", 200),
        ("n", 0),
        ("stop", ["", "a"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(service: httpx.Client, field: str, value: Any) -> None:
    body = {"model": "policy", **HELLO, field: value}
    response = service.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert response.json()["field"].startswith(field)


def test_neutral_values_and_labels_are_accepted(service: httpx.Client) -> None:
    body = {"model": "policy", **HELLO, "max_completion_tokens": 3, "user": "me", "presence_penalty": 0, "store": False}
    assert service.post("/v1/chat/completions", json=body).status_code == 200
