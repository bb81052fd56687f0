"""The documented command, at a length that teaches little: what it writes, and that its seed decides it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from trainer.tasks.renamed_library.pretrain import main


def pretrain(out: Path, seed: int) -> dict[str, Any]:
    main(["--steps", "8", "--batch", "8", "--questions", "8", "--seed", str(seed), "--out", str(out)])
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    return record


def test_the_command_writes_a_hugging_face_directory_and_its_record(tmp_path: Path) -> None:
    record = pretrain(tmp_path / "model", seed=3)
    weights = tmp_path / "model" / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == record["sha256"]
    assert sum(tensor.numel() for tensor in load_file(weights).values()) == record["parameters"]
    assert record["command"].endswith("--seed 3 --steps 8 --batch 8")
    assert set(record["prior"]) >= {"student_accuracy", "rename_followed", "line_copied"}
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "model"))
    assert pretrain(tmp_path / "again", seed=3)["sha256"] == record["sha256"]
