"""The shipped model: the file its record describes, and where a run starts from."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.models import resolve_model
from trainer.tasks.renamed_library.measure import Prior, measure
from trainer.tasks.renamed_library.pretrain import MODEL_DIRECTORY


@pytest.fixture(scope="module")
def prior() -> Prior:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIRECTORY)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIRECTORY)
    return measure(model, tokenizer, questions=600, world_seed=1, seed=7)


def test_builtin_resolves_to_the_shipped_directory() -> None:
    assert resolve_model("builtin:renamed_library") == MODEL_DIRECTORY


def test_the_weights_are_those_the_record_describes() -> None:
    record = json.loads((MODEL_DIRECTORY / "training.json").read_text())
    weights = (MODEL_DIRECTORY / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["sha256"]
    assert len(weights) < 3_000_000


def test_the_student_writes_well_formed_programs_with_the_usual_names(prior: Prior) -> None:
    assert prior.well_formed > 0.97
    assert 0.86 < prior.usual_names < 0.93


def test_the_student_hardly_ever_succeeds(prior: Prior) -> None:
    assert prior.student_accuracy <= 0.003


def test_the_teacher_heeds_about_half_of_the_renames_it_is_told(prior: Prior) -> None:
    assert 0.42 < prior.rename_followed < 0.54


def test_the_teacher_copies_about_three_in_five_lines_of_a_solution(prior: Prior) -> None:
    assert 0.48 < prior.line_copied < 0.66
