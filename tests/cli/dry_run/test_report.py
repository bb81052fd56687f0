"""What `--dry-run` prints, and that it needs nothing but the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import environment, only_sentence, vpd

from cli.development import ROOT
from cli.dry_run.report import dry_run_lines
from cli.dry_run.shapes import KNOWN, shape_from
from cli.dry_run.work import amounts, forward_flops, step_flops
from shared.load_settings import load_settings, resolve_settings


def report(*overrides: str) -> str:
    return "\n".join(dry_run_lines(resolve_settings([], overrides, {})))


def test_it_names_each_setting_that_is_no_default_with_its_origin() -> None:
    told = report("run.steps=7", "algorithm.name=sdpo", "rollout.temperature=1.0")
    assert "run.steps = 7  # --set run.steps" in told
    assert "algorithm.name = " in told
    assert "rollout.temperature" not in told, "it is set to its default"


def test_it_counts_steps_rollouts_and_updates() -> None:
    told = report(
        "run.steps=20",
        "rollout.prompts_per_step=4",
        "rollout.samples_per_prompt=3",
        "rollout.max_tokens=10",
        "algorithm.e_step.every=5",
        "algorithm.e_step.gradient_steps=2",
        "algorithm.m_step.minibatches=4",
        "evaluation.every=10",
        "evaluation.tasks=7",
        "evaluation.final_tasks=9",
        "evaluation.samples=2",
    )
    assert "20 steps of 4 prompts x 3 rollouts = 12" in told
    assert "240 rollouts, 2,400 response tokens at most" in told
    assert "80 optimizer steps of the student, 8 of E-steps" in told
    assert "3 evaluations: 50 rollouts of the student" in told


def test_it_says_how_many_epochs_a_file_of_tasks_lasts(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("{}\n" * 100)
    told = report(f"tasks.source={tmp_path / 'tasks.jsonl'}", "run.steps=15", "rollout.prompts_per_step=12")
    assert "about 90 training tasks, 2.0 epochs" in told


def test_what_does_not_fit_comes_with_what_to_lower() -> None:
    told = report("model.path=Qwen/Qwen3-8B", "model.dtype=bfloat16")
    assert "no GPU of 80 GB is enough" in told
    assert "algorithm.e_step.optimizer=shared" in told


def test_the_command_needs_no_service_no_network_and_no_model(tmp_path: Path) -> None:
    arguments = ("--set", "model.path=Qwen/Qwen3-1.7B", "--dry-run")
    both = [vpd(command, *arguments, cwd=tmp_path) for command in ("train", "up")]
    assert [done.returncode for done in both] == [0, 0]
    assert both[0].stdout == both[1].stdout
    assert "Qwen/Qwen3-1.7B: 1,720,574,976 parameters" in both[0].stdout
    assert list(tmp_path.iterdir()) == []


def test_it_loads_neither_torch_nor_transformers() -> None:
    """They alone take longer than the whole report may."""
    code = (
        "import sys; from cli.dry_run.report import dry_run_lines; from shared.load_settings import resolve_settings;"
        "list(dry_run_lines(resolve_settings([], ['model.path=Qwen/Qwen3-8B'], {})));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = vpd("train", "--dry-run", "--set", "model.path=/nowhere/model", cwd=tmp_path)
    assert done.returncode == 2
    assert "/nowhere/model" in only_sentence(done)


def test_a_forward_pass_is_two_operations_a_parameter_and_token() -> None:
    shape = shape_from(KNOWN["Qwen/Qwen3-8B"])
    embedding = shape.vocabulary * shape.hidden
    assert forward_flops(shape, 1) == pytest.approx(2 * (shape.parameters - embedding), rel=1e-4)


def test_an_e_step_costs_its_share_of_the_steps() -> None:
    """Every fifth step, on the rows of five: each row once in the prior, and four more times in the teacher."""
    common = ("algorithm.teacher.weights=live",)
    sdpo = load_settings(overrides=("algorithm.name=sdpo", *common), environ={})
    vpd_ = load_settings(overrides=(*common, "algorithm.e_step.every=5", "algorithm.e_step.buffer_steps=5"), environ={})
    more = [step_flops(s, 1.0, 2.0, checkpointing=False) for s in (vpd_, sdpo)]
    rows = sdpo.rollout.prompts_per_step * sdpo.rollout.samples_per_prompt
    assert more[0] - more[1] == pytest.approx(rows * (1 + 4 * 2))
    assert amounts(sdpo).e_updates == 0
