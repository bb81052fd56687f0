"""Collector and learner over real services: files, resume, sources that abstain or go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_stack import Stack, final_weights, records, run, stack, summary
from safetensors.torch import load_file
from trainer_algorithms import same

from shared.errors import ServiceUnavailable, SettingsError
from shared.trajectory_queue import TrajectoryQueue
from trainer.run_directory import RunDirectory


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("loop"), tiny_model_directory, redis_url) as running:
        yield running


@pytest.fixture(autouse=True)
def judging(services: Stack) -> None:
    services.judge.mode = "judge"
    services.judge.asked.clear()
    services.judge.before = lambda _: None


@pytest.fixture(scope="module")
def undisturbed(services: Stack) -> Stack:
    """A VPD run of 3 steps, from start to end."""
    run(services.settings("undisturbed"))
    return services


def test_a_run_leaves_the_files_people_read(undisturbed: Stack) -> None:
    path = undisturbed.root / "runs" / "undisturbed"
    expected = ["run.json", "settings.json", "metrics.jsonl", "summary.json", "curve.png"]
    assert [name for name in expected if not (path / name).is_file()] == []
    assert sorted(f.name for f in (path / "trajectories").iterdir()) == [f"step_{k:06d}.jsonl" for k in range(3)]
    assert sorted(f.name for f in (path / "checkpoints").iterdir()) == ["step_000002.pt", "step_000003.pt"]
    assert {f.name for f in (path / "policy").iterdir()} == {"v000002", "v000003"}
    found = summary(undisturbed.settings("undisturbed"))
    assert (found["algorithm"], found["seed"], found["steps"], found["rollouts"]) == ("vpd", 5, 3, 18)
    assert found["rows_trained"] > 0 and found["notes"] == []
    for key in ("accuracy_before", "accuracy_after", "teacher_accuracy_before", "teacher_accuracy_after"):
        assert 0 <= found[key] <= 1


def test_a_run_records_every_step_and_evaluation(undisturbed: Stack) -> None:
    found = records(undisturbed.settings("undisturbed"))
    assert [(r["kind"], r["step"]) for r in found] == [
        ("evaluation", 0),
        ("step", 0),
        ("step", 1),
        ("evaluation", 2),
        ("step", 2),
        ("evaluation", 3),
    ]
    wanted = {
        "steps", "wall_s", "eta_s", "reward_mean", "success_rate", "rows", "rows_trained", "rows_without_context",
        "m_step/kl", "tokens_per_s", "queue/waiting", "queue/pending", "seconds/rollout", "seconds/feedback",
        "seconds/m_step", "seconds/e_step", "seconds/publish", "seconds/step",
    }  # fmt: skip
    for record in found:
        if record["kind"] == "step":
            assert wanted - record.keys() == set()
            assert record["rows"] == 6
    assert found[4]["eta_s"] == 0


def test_the_teacher_s_prompts_and_the_feedback_stand_in_the_trajectories(undisturbed: Stack) -> None:
    path = undisturbed.root / "runs" / "undisturbed" / "trajectories"
    rows = [json.loads(line) for file in sorted(path.iterdir()) for line in file.read_text().rstrip("\n").split("\n")]
    assert len(rows) == 18
    for row in rows:
        said = row["feedback"][0]
        assert said["source"]["name"] == "judge" and row["success"] == said["success"]
        if not row["success"]:
            assert said["text"] in row["e_step_teacher_prompt"]
    assert {row["policy_version"] for row in rows} == {0, 1, 2}


def test_the_run_s_model_is_the_last_policy_and_the_queue_is_empty(undisturbed: Stack) -> None:
    settings = undisturbed.settings("undisturbed")
    path = undisturbed.root / "runs" / "undisturbed"
    served = load_file(path / "policy" / "v000003" / "model.safetensors")
    assert same(final_weights(settings), served)
    queue = TrajectoryQueue(settings.queue, RunDirectory(settings).identity.run_id)
    depth = queue.depth()
    queue.close()
    assert (depth.waiting, depth.pending, depth.dead) == (0, 0, 0)


@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_run_stopped_between_steps_and_resumed_ends_with_the_same_weights(
    undisturbed: Stack, stop_after: int
) -> None:
    settings = undisturbed.settings(f"stopped-{stop_after}")
    stopped = run(settings, stop_after=stop_after)
    assert stopped.step == stop_after + 1
    run(settings)
    assert same(final_weights(settings), final_weights(undisturbed.settings("undisturbed")))
    steps = [r["step"] for r in records(settings) if r["kind"] == "step"]
    assert steps == [0, 1, 2]
    assert summary(settings)["rows_trained"] == summary(undisturbed.settings("undisturbed"))["rows_trained"]


def test_where_every_source_abstains_nothing_is_trained_and_the_summary_says_so(services: Stack) -> None:
    services.judge.mode = "abstain"
    settings = services.settings(
        "abstaining", run={"name": "abstaining", "dir": str(services.root / "runs"), "steps": 1}
    )
    run(settings)
    found = summary(settings)
    assert found["rows_trained"] == 0 and found["accuracy_after"] is None
    assert any("Trained on nothing" in note for note in found["notes"])
    assert same(final_weights(settings), load_file(services.model / "model.safetensors"))


def test_an_outcome_source_that_goes_away_stops_the_run_with_a_sentence_and_the_run_resumes(services: Stack) -> None:
    def settings(outage_s: float) -> object:
        source = {"url": services.judge_url, "role": "both", "timeout_s": 0.5}
        return services.settings("outage", feedback={"sources": {"judge": source}, "max_outage_s": outage_s})

    def down_in_training(asked: int) -> None:
        # The evaluation before the run asks twice, step 0 once.
        services.judge.mode = "down" if asked >= 3 else "judge"

    services.judge.before = down_in_training
    with pytest.raises(ServiceUnavailable) as caught:
        run(settings(1.0))  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "judge" in sentence and services.judge_url in sentence and "\n" not in sentence
    assert "feedback.max_outage_s" in sentence
    before = records(settings(1.0))  # type: ignore[arg-type]
    assert [r["step"] for r in before if r["kind"] == "step"] == [0]

    services.judge.before = lambda _: None
    services.judge.mode = "judge"
    run(settings(1.0))  # type: ignore[arg-type]
    rewards = [r["reward_mean"] for r in records(settings(1.0)) if r["kind"] == "step"]  # type: ignore[arg-type]
    undisturbed_steps = [r["rows_without_outcome"] for r in records(settings(1.0)) if r["kind"] == "step"]  # type: ignore[arg-type]
    assert len(rewards) == 3 and None not in rewards
    assert undisturbed_steps == [0, 0, 0]


def test_other_settings_are_refused_where_a_run_already_is(undisturbed: Stack) -> None:
    with pytest.raises(SettingsError, match="rollout"):
        run(undisturbed.settings("undisturbed", rollout={"samples_per_prompt": 4}))
