"""The shipped models: where a run starts from. Their digests are checked with those of all worlds."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.tasks.pretrain import directory_of
from trainer.tasks.renamed_library.measure import Prior, measure


@pytest.fixture(scope="module", params=["", "seed2"])
def prior(request: pytest.FixtureRequest) -> Prior:
    torch.set_num_threads(1)
    directory = directory_of("renamed_library", request.param)
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return measure(model, tokenizer, questions=600, world_seed=1, seed=7)


def test_the_student_writes_well_formed_programs_with_the_usual_names(prior: Prior) -> None:
    assert prior.well_formed > 0.97
    assert 0.86 < prior.usual_names < 0.93


def test_the_student_hardly_ever_succeeds(prior: Prior) -> None:
    assert prior.student_accuracy <= 0.003


def test_the_teacher_heeds_about_half_of_the_renames_it_is_told(prior: Prior) -> None:
    assert 0.42 < prior.rename_followed < 0.54


def test_the_teacher_copies_about_three_in_five_lines_of_a_solution(prior: Prior) -> None:
    assert 0.48 < prior.line_copied < 0.66
