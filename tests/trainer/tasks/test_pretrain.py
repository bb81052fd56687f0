"""The documented command, at a length that teaches little: what it writes, and that the model's name decides it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from trainer.tasks import WORLDS
from trainer.tasks.pretrain import COMMAND, SEEDS, directory_of, main


def pretrain(model: str, out: Path) -> dict[str, Any]:
    main([model, "--steps", "4", "--batch", "8", "--questions", "8", "--out", str(out)])
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    return record


@pytest.mark.parametrize("world", WORLDS)
def test_the_command_writes_a_hugging_face_directory_and_its_record(world: str, tmp_path: Path) -> None:
    record = pretrain(world, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == record["sha256"]
    assert sum(tensor.numel() for tensor in load_file(weights).values()) == record["parameters"]
    assert (record["command"], record["documents"]) == (f"{COMMAND} {world}", 32)
    assert {"questions", "student_accuracy", "well_formed"} <= set(record["prior"])
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "model"))


@pytest.mark.parametrize("world", WORLDS)
def test_two_builds_of_a_model_are_the_same_bytes_and_a_variant_is_another(world: str, tmp_path: Path) -> None:
    built = [pretrain(model, tmp_path)["sha256"] for model in (world, world, f"{world}/seed2")]
    assert built[0] == built[1] != built[2]


def test_an_unknown_model_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nowhere"])
    assert "renamed_library/seed2" in capsys.readouterr().err


@pytest.mark.parametrize("variant", SEEDS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_shipped_model_is_the_one_its_record_describes(world: str, variant: str) -> None:
    directory = directory_of(world, variant)
    record = json.loads((directory / "training.json").read_text())
    weights = (directory / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["sha256"]
    assert len(weights) < 3_000_000
    assert record["command"] == f"{COMMAND} {world}/{variant}".rstrip("/")
    assert record["seed"] == SEEDS[variant]
