"""Out of memory is one sentence that names what to lower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_processes import random_groups, settings_of
from tiny_model import make_tiny_model
from transformers import AutoModelForCausalLM

from shared.errors import SettingsError
from shared.settings import LearnerSettings, LoRASettings, ModelSettings
from trainer.algorithms import Metrics
from trainer.batch import Batch
from trainer.batch_store import StepBatch
from trainer.memory import memory_errors
from trainer.policy import Policy
from trainer.training import Training

LEARNER = LearnerSettings(microbatch_tokens=4096, chunk_tokens=256)


def sentence(error: Exception, model: ModelSettings, learner: LearnerSettings | None = LEARNER) -> str:
    with pytest.raises(SettingsError) as caught, memory_errors(model, learner):
        raise error
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error
    return str(caught.value)


def of_torch() -> Exception:
    """What torch raises on the CPU for more memory than there is."""
    try:
        torch.empty(2**52)
    except RuntimeError as error:
        return error
    raise AssertionError("torch made a tensor of 16 PiB")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        of_torch(),
    ],
    ids=["GPU", "cuBLAS", "Python", "CPU"],
)
def test_every_kind_of_out_of_memory_names_the_settings_to_lower(error: Exception) -> None:
    assert sentence(error, ModelSettings()) == (
        "The trainer ran out of memory: lower learner.microbatch_tokens (now 4096), lower learner.chunk_tokens "
        "(now 256), set model.gradient_checkpointing=true, or train an adapter instead of all weights "
        "(model.lora.rank=16)."
    )


def test_what_is_set_already_is_not_advised() -> None:
    said = sentence(MemoryError(), ModelSettings(gradient_checkpointing=True, lora=LoRASettings()))
    assert said == (
        "The trainer ran out of memory: lower learner.microbatch_tokens (now 4096), or lower learner.chunk_tokens "
        "(now 256)."
    )


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (ModelSettings(), r"model\.lora\.rank=16"),
        (ModelSettings(lora=LoRASettings()), r"set model\.dtype=bfloat16"),
        (ModelSettings(lora=LoRASettings(), dtype="bfloat16"), r"smaller model\.path"),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    tiny_model_directory: Path, monkeypatch: pytest.MonkeyPatch, model: ModelSettings, says: str
) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(2**52)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(SettingsError, match=rf"does not fit into memory: .*{says}") as caught:
        Policy(tiny_model_directory, model, LEARNER, temperature=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of range")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors(ModelSettings(), LEARNER):
        raise error
    assert caught.value is error


def test_memory_that_runs_out_in_a_training_step_is_the_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(settings_of(make_tiny_model(tmp_path / "model", context=512), tmp_path))

    def too_much(batch: Batch) -> Metrics:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training.algorithm, "train_step", too_much)
    with pytest.raises(SettingsError, match=r"lower learner\.microbatch_tokens \(now 16384\)"):
        training.step(StepBatch(step=0, groups=random_groups(0, samples=3)))
