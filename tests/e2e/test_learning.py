"""What a user sees: a run learns, leaves its files, and methods and controls differ as they should."""

from __future__ import annotations

import json

import pytest
from vpd_run import SMALL, Start, chosen

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_run_learns_from_what_the_services_say_and_leaves_its_files(up: Start) -> None:
    run = up(*chosen(run__steps=40, evaluation__final_tasks=100))
    output = run.wait()
    assert run.process.returncode == 0, output
    summary = run.summary()
    assert summary["algorithm"] == "vpd" and summary["steps"] == 40 and summary["rollouts"] == 40 * 16 * 8
    assert summary["accuracy_before"] < 0.05
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.3, output
    first = run.trajectories(0)
    assert len(first) == 128
    assert any("it was renamed to" in (t["m_step_teacher_prompt"] or "") for t in first)
    for name in ("curve.png", "settings.json", "model/model.safetensors", "model/tokenizer.json"):
        assert (run.directory / name).stat().st_size > 0
    assert "curve.png" in output and str(run.directory.name) in output


@pytest.mark.parametrize("algorithm", ["sdpo", "grpo"])
def test_recipes_differ_in_the_algorithm_alone_and_the_summary_says_which_ran(up: Start, algorithm: str) -> None:
    run = up("--recipe", f"recipes/{algorithm}.toml", *SMALL, *chosen(run__steps=3))
    output = run.wait()
    assert run.process.returncode == 0, output
    assert run.summary()["algorithm"] == algorithm
    used = json.loads((run.directory / "settings.json").read_text())
    assert used["algorithm"]["name"] == algorithm and used["rollout"]["prompts_per_step"] == 16


def test_with_feedback_exchanged_among_prompts_nothing_is_learned(up: Start) -> None:
    run = up(*chosen(run__steps=40, evaluation__final_tasks=100, teacher_prompt__control="shuffled"))
    output = run.wait()
    assert run.process.returncode == 0, output
    assert run.summary()["accuracy_after"] < 0.1, output
