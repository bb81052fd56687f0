"""A run in one process: the same weights as over real services, and every kind of source mounted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loop_stack
import pytest
from tiny_model import make_tiny_model

from cli import in_process
from cli.exact_judge import SOURCE
from shared.errors import SettingsError
from shared.protocol import Message, Task
from shared.settings import Settings
from trainer.tasks import load_world

WORLD = "builtin:renamed_library"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[loop_stack.Stack]:
    root = tmp_path_factory.mktemp("stack")
    with loop_stack.stack(root, make_tiny_model(root / "model", context=1024), redis_url) as running:
        yield running


def _here(services: loop_stack.Stack, name: str) -> Settings:
    """The stack's settings, but for the inference service: that is to be in this process."""
    settings = services.settings(name)
    inference = settings.inference.model_copy(update={"url": in_process.ADDRESSES["inference"]})
    return settings.model_copy(update={"inference": inference})


def _same_weights(one: Settings, other: Settings) -> bool:
    a, b = loop_stack.final_weights(one), loop_stack.final_weights(other)
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


def test_a_run_in_one_process_ends_with_the_weights_of_a_run_over_http(services: loop_stack.Stack) -> None:
    over_http = services.settings("over-http")
    loop_stack.run(over_http)
    here = _here(services, "here")
    summary = in_process.run(here)
    assert summary is not None and summary["rows_trained"] > 0
    assert _same_weights(over_http, here)


def test_a_run_that_sigterm_stopped_goes_on_to_the_same_weights(services: loop_stack.Stack) -> None:
    whole, stopped = _here(services, "whole"), _here(services, "stopped")
    in_process.run(whole)

    def stop_at_the_second_step(asked: int) -> None:
        if asked == before + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = len(services.judge.asked)
    services.judge.before = stop_at_the_second_step
    try:
        assert in_process.run(stopped) is None
    finally:
        services.judge.before = lambda _: None
    assert in_process.run(stopped) is not None
    assert _same_weights(whole, stopped)


def test_a_run_that_is_done_is_not_run_again(services: loop_stack.Stack) -> None:
    settings = _here(services, "done")
    summary = in_process.run(settings)
    asked = len(services.judge.asked)
    assert in_process.run(settings) == summary
    assert len(services.judge.asked) == asked


@pytest.fixture(scope="module")
def with_everybody(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> list[dict[str, Any]]:
    """Trajectories of two steps with the exact judge, the policy as its own critic, and a person."""
    sources = {
        "code": {"url": in_process.ADDRESSES["code-feedback"], "role": "both"},
        "self": {"url": in_process.ADDRESSES["critic-feedback"] + "/critique", "when": "failed"},
        "human": {"url": in_process.ADDRESSES["human-feedback"]},
    }
    settings = _world_settings(tmp_path_factory.mktemp("world"), redis_url, sources)
    assert in_process.run(settings, critiques_per_step=3) is not None
    files = sorted((Path(settings.run.dir) / settings.run.name / "trajectories").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _world_settings(root: Path, redis_url: str, sources: dict[str, Any]) -> Settings:
    return Settings.model_validate(
        {
            "run": {"name": "world", "dir": str(root), "steps": 2},
            "model": {"path": WORLD, "device": "cpu"},
            "tasks": {"source": WORLD},
            "rollout": {"prompts_per_step": 3, "samples_per_prompt": 3},
            "feedback": {"sources": sources},
            "critic_feedback": {"max_tokens": 8},
            "queue": {"url": redis_url},
            "evaluation": {"tasks": 4, "final_tasks": 4},
        }
    )


def _said(trajectory: dict[str, Any], source: str) -> dict[str, Any] | None:
    return next((f for f in trajectory["feedback"] if f["source"]["name"] == source and f["status"] == "ok"), None)


def _task(trajectory: dict[str, Any]) -> Task:
    world = load_world("renamed_library", world_seed=0, seed=1)
    tasks = {task.id: task for step in range(2) for task in world.training(step, 3)}
    task = tasks[trajectory["task_id"]]
    assert task.messages == [Message(**m) for m in trajectory["prompt"]]
    return task


def test_the_outcome_is_that_of_the_worlds_judge(with_everybody: list[dict[str, Any]]) -> None:
    world = load_world("renamed_library", world_seed=0, seed=1)
    assert len(with_everybody) == 18
    for trajectory in with_everybody:
        verdict = world.judge(_task(trajectory), trajectory["response"])
        said = _said(trajectory, SOURCE.name)
        assert said is not None and (said["success"], said["text"]) == (verdict.success, verdict.text)
        assert trajectory["reward"] == float(verdict.success)


def test_the_policy_criticises_its_own_failures(with_everybody: list[dict[str, Any]]) -> None:
    asked = [trajectory for trajectory in with_everybody if not trajectory["success"]]
    assert asked and any(_said(trajectory, "self") for trajectory in asked)


def test_a_person_writes_about_so_many_failures_of_each_step_what_the_world_remarks(
    with_everybody: list[dict[str, Any]],
) -> None:
    world = load_world("renamed_library", world_seed=0, seed=1)
    for step in range(2):
        written = [t for t in with_everybody if t["step"] == step and _said(t, "human")]
        assert len(written) == 3
        for trajectory in written:
            remark = world.remark(_task(trajectory), trajectory["response"])
            assert remark and (_said(trajectory, "human") or {})["text"] == remark
            assert remark in trajectory["m_step_teacher_prompt"]


def test_math_tasks_are_judged_by_the_answer_rule(services: loop_stack.Stack, tmp_path: Path) -> None:
    tasks = [
        {"id": f"m{i}", "kind": "math", "messages": [{"role": "user", "content": f"{i}"}], "reference": {"answer": "1"}}
        for i in range(8)
    ]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    answer = {"url": in_process.ADDRESSES["critic-feedback"] + "/answer", "role": "both"}
    settings = services.settings(
        "math",
        run={"dir": str(tmp_path), "name": "math", "steps": 1},
        tasks={"source": str(tmp_path / "math.jsonl"), "held_out": None},
        inference={"url": in_process.ADDRESSES["inference"]},
    )
    settings = Settings.model_validate({**settings.model_dump(), "feedback": {"sources": {"answer": answer}}})
    summary = in_process.run(settings)
    assert summary is not None and summary["accuracy_after"] == 0.0
    (step,) = [r for r in loop_stack.records(settings) if r["kind"] == "step"]
    assert step["rows_without_outcome"] == 0


def test_tasks_that_only_a_sandbox_could_judge_are_refused(services: loop_stack.Stack, tmp_path: Path) -> None:
    code = {"code": {"url": in_process.ADDRESSES["code-feedback"], "role": "both"}}
    settings = _world_settings(tmp_path, services.redis_url, code)
    tasks = settings.tasks.model_copy(update={"source": str(services.root / "tasks.jsonl")})
    with pytest.raises(SettingsError, match="is no built-in world"):
        in_process.run(settings.model_copy(update={"tasks": tasks}))


def test_a_person_needs_a_source_to_write_to(services: loop_stack.Stack, tmp_path: Path) -> None:
    code = {"code": {"url": in_process.ADDRESSES["code-feedback"], "role": "both"}}
    with pytest.raises(SettingsError, match=r"set feedback\.sources\.human\.url"):
        in_process.run(_world_settings(tmp_path, services.redis_url, code), critiques_per_step=1)
