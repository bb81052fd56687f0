"""The memory estimate against a real training step, and how it moves with the settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import make_tiny_model
from transformers import AutoModelForCausalLM, Qwen3Config

from cli.development import ROOT
from cli.dry_run.memory import (
    CHUNK_BYTES,
    GIB,
    LOGIT_TENSORS,
    engine_memory,
    engine_plan,
    learner_memory,
    learner_plan,
    savings,
    smallest_gpu,
)
from cli.dry_run.shapes import KNOWN, ModelShape, shape_from, shape_of
from shared.errors import SettingsError
from shared.load_settings import load_settings
from shared.settings import Settings
from trainer import head
from trainer.lora import add_adapter

TRAIN = Path(__file__).with_name("training_memory.py")
QWEN3_8B = shape_from(KNOWN["Qwen/Qwen3-8B"])
SMALL_RUN = (
    "rollout.max_tokens=200",
    "rollout.prompts_per_step=2",
    "rollout.samples_per_prompt=2",
    "learner.microbatch_tokens=860",
    "learner.chunk_tokens=256",
    "teacher_prompt.max_tokens=300",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 million parameters, with a vocabulary that makes the logits of a chunk count."""
    directory = make_tiny_model(tmp_path_factory.mktemp("model"))
    config = Qwen3Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=12_000,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "algorithm",
    [
        ("algorithm.name=sdpo",),
        ("algorithm.name=vpd", "algorithm.teacher.weights=frozen", "algorithm.e_step.prior=fixed"),
    ],
    ids=lambda chosen: chosen[0].rpartition("=")[2],
)
def test_a_training_step_takes_what_was_estimated_within_a_third(model: Path, algorithm: tuple[str, ...]) -> None:
    chosen = [f"model.path={model}", *SMALL_RUN, *algorithm]
    settings = load_settings(overrides=chosen, environ={})
    shape, _ = shape_of(str(model))
    estimate = sum(learner_memory(shape, learner_plan(settings, shape)).values())
    measured = _growth(model, *SMALL_RUN, *algorithm)
    assert measured == pytest.approx(estimate, rel=1 / 3), f"measured {measured / GIB:.2f}, {estimate / GIB:.2f} GiB"


def _growth(model: Path, *overrides: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VPD_")}
    # Freed blocks go back at once, so that the peak is of what is held and not of what malloc keeps.
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'trainer'}", "MALLOC_MMAP_THRESHOLD_": "1048576"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(TRAIN), str(model), *overrides]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


# ------------------------------------------------------------------------------------------------- by the settings


def held(*overrides: str, shape: ModelShape = QWEN3_8B) -> dict[str, float]:
    settings: Settings = load_settings(overrides=overrides, environ={})
    return learner_memory(shape, learner_plan(settings, shape))


def test_full_training_holds_sixteen_bytes_a_parameter() -> None:
    """Weights, gradients and two moments, all float32."""
    counted = held("algorithm.name=grpo")
    state = [counted[name] for name in ("weights, float32", "gradients, float32", "AdamW moments, float32")]
    assert sum(state) == 16 * QWEN3_8B.parameters


@pytest.mark.parametrize(
    ("overrides", "copies", "moments"),
    [
        (("algorithm.name=grpo",), 0, 1),
        (("algorithm.name=sdpo", "algorithm.teacher.weights=live"), 0, 1),
        (("algorithm.name=sdpo", "algorithm.teacher.weights=ema"), 1, 1),
        (("algorithm.name=sdpo", "algorithm.teacher.weights=trust_region"), 1, 1),
        (("algorithm.teacher.weights=live",), 0, 2),
        (("algorithm.teacher.weights=live", "algorithm.e_step.optimizer=shared"), 0, 1),
        (("algorithm.teacher.weights=separate",), 1, 2),
        (("algorithm.teacher.weights=live", "algorithm.e_step.prior=fixed", "learner.diagnose_every=5"), 2, 2),
    ],
)
def test_each_copy_of_the_weights_and_each_set_of_moments_is_counted(
    overrides: tuple[str, ...], copies: int, moments: int
) -> None:
    counted = held(*overrides)
    assert sum(size for name, size in counted.items() if name.startswith("copy")) == copies * 4 * QWEN3_8B.parameters
    assert counted["AdamW moments, float32"] == moments * 8 * QWEN3_8B.parameters


def test_the_papers_form_of_vpd_holds_nothing_that_grpo_does_not_but_longer_rows() -> None:
    paper = ("algorithm.teacher.weights=live", "algorithm.e_step.optimizer=shared")
    vpd, grpo = held(*paper), held("algorithm.name=grpo")
    state = ("weights, float32", "gradients, float32", "AdamW moments, float32")
    assert [vpd[name] for name in state] == [grpo[name] for name in state]
    assert vpd.keys() == grpo.keys()


def test_gradients_of_the_e_step_reach_as_far_as_the_teachers_prompt() -> None:
    lengths = ("rollout.max_tokens=8192", "teacher_prompt.max_tokens=10240")
    assert held(*lengths)["activations"] == pytest.approx(
        held("algorithm.name=sdpo", *lengths, "learner.microbatch_tokens=18432")["activations"]
    )


def test_a_gpu_is_large_enough_only_with_the_reserve() -> None:
    assert smallest_gpu(20 * 10**9 - 4 * GIB) == 24
    assert smallest_gpu(24 * 10**9 - 3 * GIB) == 40
    assert smallest_gpu(80 * 10**9) is None


def test_a_chunks_logits_are_bounded_as_the_trainer_bounds_them() -> None:
    assert CHUNK_BYTES == head.CHUNK_BYTES
    assert held("learner.chunk_tokens=4096")["logits of a chunk"] == LOGIT_TENSORS * CHUNK_BYTES
    few = held("learner.chunk_tokens=16")["logits of a chunk"]
    assert few == LOGIT_TENSORS * 4 * 16 * QWEN3_8B.vocabulary


def test_ranks_divide_weights_gradients_and_moments_and_no_activations() -> None:
    one, four = held("model.gradient_checkpointing=true"), held("model.gradient_checkpointing=true", "learner.ranks=4")
    for name in ("weights, float32", "copy: teacher (ema)", "gradients, float32", "AdamW moments, float32"):
        assert four[name] == one[name] / 4
    deep = {
        ranks: held(f"learner.ranks={ranks}", "learner.microbatch_tokens=500000")["activations"] for ranks in (2, 4)
    }
    assert deep[2] == deep[4] > 0


@pytest.mark.parametrize("targets", ['["q_proj", "v_proj"]', "none"])
def test_an_adapter_has_the_parameters_that_peft_makes(targets: str) -> None:
    lora = load_settings(overrides=["model.lora.rank=8", f"model.lora.targets={targets}"], environ={}).model.lora
    assert lora is not None
    config = Qwen3Config(hidden_size=64, intermediate_size=160, num_hidden_layers=2, head_dim=16, vocab_size=50)
    network = AutoModelForCausalLM.from_config(config)
    add_adapter(network, lora)
    made = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert shape_from(config.to_dict()).adapter_parameters(lora) == made


def test_of_an_adapter_only_the_adapter_has_gradients_moments_and_copies() -> None:
    counted = held("model.dtype=bfloat16", "model.lora.rank=8", "algorithm.name=sdpo")
    assert counted["weights below the adapter"] == 2 * QWEN3_8B.parameters
    state = counted["weights, float32"] + counted["gradients, float32"] + counted["AdamW moments, float32"]
    assert state == 4 * counted["copy: teacher (ema)"] < 0.1 * counted["weights below the adapter"]


def test_ranks_that_train_an_adapter_hold_each_what_one_holds() -> None:
    adapter = ("model.dtype=bfloat16", "model.lora.rank=8", "algorithm.name=sdpo")
    assert held(*adapter, "learner.ranks=4") == held(*adapter)
    settings = load_settings(overrides=list(adapter), environ={})
    assert "learner.ranks=2" not in savings(QWEN3_8B, learner_plan(settings, QWEN3_8B))


@pytest.mark.parametrize(
    ("arguments", "gpus", "share"),
    [
        ("[]", 1, 0.9),
        ('["--tensor-parallel-size", "4"]', 4, 0.9),
        ('["--tensor-parallel-size=2", "--gpu-memory-utilization=0.3"]', 2, 0.3),
    ],
)
def test_what_vllm_takes_is_read_off_its_arguments(arguments: str, gpus: int, share: float) -> None:
    settings = load_settings(overrides=["inference.engine=vllm", f"inference.vllm.arguments={arguments}"], environ={})
    plan = engine_plan(settings, QWEN3_8B)
    assert (plan.gpus, plan.share) == (gpus, share)
    assert engine_memory(QWEN3_8B, plan)["weights"] == 4 * QWEN3_8B.parameters / gpus


def test_an_argument_of_vllm_that_is_no_number_is_one_sentence() -> None:
    chosen = ["inference.engine=vllm", 'inference.vllm.arguments=["--tensor-parallel-size", "many"]']
    with pytest.raises(SettingsError, match="--tensor-parallel-size takes a number, not 'many'"):
        engine_plan(load_settings(overrides=chosen, environ={}), QWEN3_8B)


def test_beside_vllm_the_learner_has_what_vllms_share_leaves() -> None:
    learner, engine = 50 * 10**9, 4 * 10**9
    assert smallest_gpu(learner, engine, 0.3) == 80
    assert smallest_gpu(learner, engine, 0.35) is None, "vLLM takes its share whether it needs it or not"
    assert smallest_gpu(learner, engine, 0.02) is None, "vLLM has less than it needs"


def test_each_way_to_lower_the_memory_frees_what_it_says() -> None:
    settings = load_settings(overrides=["model.dtype=bfloat16", "rollout.max_tokens=8192"], environ={})
    plan = learner_plan(settings, QWEN3_8B)
    freed = savings(QWEN3_8B, plan)
    assert list(freed.values()) == sorted(freed.values(), reverse=True)
    before = sum(learner_memory(QWEN3_8B, plan).values())
    for change in ("model.gradient_checkpointing=true", "learner.ranks=2", "algorithm.e_step.optimizer=shared"):
        changed = ["model.dtype=bfloat16", "rollout.max_tokens=8192", change]
        after = sum(held(*changed).values())
        assert before - after == pytest.approx(freed[change])
