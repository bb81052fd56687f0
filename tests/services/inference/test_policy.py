"""Publishing over HTTP: what is served, what is refused, what a restarted service serves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.inference.app import create_app
from tests.services.inference.inference_support import (
    HELLO,
    checkpoint,
    publication,
    sample,
    settings_for,
    wait_ready,
    worst_difference,
)
from tests.serving import running
from tests.tiny_model import tiny_model


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


TRANSFER: dict[str, Any] = {"backend": "nccl", "update": {"names": [], "shapes": [], "dtype_names": []}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"transfer": TRANSFER}, "transfer"),
        ({"transfer": TRANSFER, "path": None}, "transfer"),
        ({"path": None, "sha256": None}, "path"),
        ({"path": None}, "path"),
        ({"sha256": None}, "sha256"),
        ({"path": None, "sha256": None, "transfer": TRANSFER | {"backend": "smoke"}}, "transfer.backend"),
        ({"path": None, "sha256": None, "transfer": TRANSFER, "adapter": True}, "adapter"),
        ({"path": None, "sha256": None, "transfer": TRANSFER}, "backend"),
    ],
)
def test_weights_come_either_by_files_or_by_the_transfer_that_the_service_was_started_for(
    service: httpx.Client, root: Path, change: dict[str, Any], field: str
) -> None:
    before = service.get("/v1/policy").json()
    response = service.post("/v1/policy", json=checkpoint(root, "form", seed=34) | change)
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert service.get("/v1/policy").json() == before


@pytest.mark.parametrize("update", [TRANSFER["update"], {}])
def test_a_transfer_that_does_not_fit_the_model_is_refused_before_the_engine_is_touched(
    tiny_model_dir: Path, tmp_path: Path, update: dict[str, Any]
) -> None:
    settings = settings_for(tiny_model_dir, tmp_path / "root", publish="nccl")
    announced = {"run_id": "run-1", "version": 34, "transfer": {"backend": "nccl", "update": update}}
    with running(create_app(settings)) as url, wait_ready(url) as client:
        response = client.post("/v1/policy", json=announced)
        assert (response.status_code, response.json()["field"]) == (422, "transfer.update")
        assert client.get("/v1/policy").json()["run_id"] is None


def test_an_adapter_is_refused_by_a_service_that_takes_none(service: httpx.Client, root: Path) -> None:
    (root / "adapter").mkdir()
    (root / "adapter" / "adapter_model.safetensors").write_bytes(b"anything")
    announced = {"run_id": "run-1", "version": 35, "path": "adapter", "sha256": "0" * 64, "adapter": True}
    response = service.post("/v1/policy", json=announced)
    assert (response.status_code, response.json()["field"]) == (422, "adapter")
    assert "inference.vllm.lora_rank" in response.json()["detail"]


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
