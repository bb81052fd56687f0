"""Real rows of each benchmark through collector, feedback and learner with a random Qwen3-architecture model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import DATA, real_data
from loop_stack import run, summary
from serving import running
from tiny_model import make_tiny_model

from services.code_feedback.app import create_app as code_feedback
from services.critic_feedback.app import create_app as critic_feedback
from services.inference.app import create_app as inference
from shared.settings import Settings
from trainer.audit import audit
from trainer.tasks import load_tasks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), real_data]
PROMPTS, SAMPLES, STEPS = 2, 2, 2
BENCHMARKS = {
    "livecodebench": {"source": f"livecodebench:{DATA}/livecodebench_v6.jsonl"},
    "sciknoweval": {"source": f"sciknoweval:{DATA}/sciknoweval"},
    "math": {"source": f"math:{DATA}/math500.jsonl", "held_out": f"math:{DATA}/aime25.jsonl"},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[dict[str, Any]]:
    """Settings of runs against services that are up."""
    root = tmp_path_factory.mktemp("benchmarks")
    (root / "runs").mkdir()
    tree: dict[str, Any] = {
        "run": {"dir": str(root / "runs"), "steps": STEPS},
        # One token a byte: the longest teacher prompt is a question of 4,000 bytes and feedback of 2,000.
        "model": {"path": str(make_tiny_model(root / "model", context=8192)), "device": "cpu"},
        "rollout": {"prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES, "max_tokens": 16},
        "queue": {"url": redis_url},
        "evaluation": {"every": 100, "tasks": 1, "final_tasks": 2},
        "inference": {"policy_root": str(root / "runs"), "threads": 1},
    }
    settings = Settings.model_validate(tree)
    with ExitStack() as stack:
        urls = {app: stack.enter_context(running(app(settings))) for app in (code_feedback, critic_feedback, inference)}
        tree["inference"]["url"] = urls[inference]
        code, answer = urls[code_feedback], f"{urls[critic_feedback]}/answer"
        yield {**tree, "urls": {"livecodebench": code, "sciknoweval": answer, "math": answer}}


@pytest.mark.parametrize("algorithm", ["vpd", "grpo"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_real_rows_go_through_the_whole_loop_and_every_rollout_is_accounted_for(
    name: str, algorithm: str, tree: dict[str, Any]
) -> None:
    source = {"url": tree["urls"][name], "role": "both", "timeout_s": 60.0}
    settings = Settings.model_validate(
        {
            **{key: value for key, value in tree.items() if key != "urls"},
            "run": {**tree["run"], "name": f"{name}-{algorithm}"},
            "tasks": BENCHMARKS[name],
            "algorithm": {"name": algorithm},
            "feedback": {"sources": {"outcome": source}},
        }
    )
    run(settings)
    directory = Path(settings.run.dir) / settings.run.name
    found = audit(directory)
    assert found.problems == []
    assert summary(settings)["rollouts"] == PROMPTS * SAMPLES * STEPS
    tasks = load_tasks(settings.tasks, seed=settings.run.seed)
    for step in range(STEPS):
        lines = (directory / "trajectories" / f"step_{step:06d}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        expected = [task.id for task in tasks.training(step, PROMPTS) for _ in range(SAMPLES)]
        assert sorted(row["task_id"] for row in rows) == sorted(expected)
        # Judged, every one: what a random model writes is a failure, and no failure of a service.
        assert [row["reward"] for row in rows] == [0.0] * PROMPTS * SAMPLES
