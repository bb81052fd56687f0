"""Collector and learner over real services: files, resume, sources that abstain or go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loop_stack import Stack, final_weights, metrics, records, run, stack, summary, timings, write_tasks
from safetensors.torch import load_file
from trainer_algorithms import same

from shared.errors import ServiceUnavailable, SettingsError
from shared.trajectory_queue import TrajectoryQueue
from trainer import learner, training
from trainer.algorithms import Metrics
from trainer.algorithms.sdpo import SDPO
from trainer.batch import Batch
from trainer.checkpoint import Checkpoints
from trainer.publisher import Publisher
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
    expected = ["run.json", "settings.json", "metrics.jsonl", "timings.jsonl", "summary.json", "curve.png"]
    assert [name for name in expected if not (path / name).is_file()] == []
    assert sorted(f.name for f in (path / "trajectories").iterdir()) == [f"step_{k:06d}.jsonl" for k in range(3)]
    assert sorted(f.name for f in (path / "checkpoints").iterdir()) == ["step_000002.pt", "step_000003.pt"]
    assert {f.name for f in (path / "policy").iterdir()} == {"v000002", "v000003"}
    found = summary(undisturbed.settings("undisturbed"))
    assert (found["algorithm"], found["seed"], found["steps"], found["rollouts"]) == ("vpd", 5, 3, 18)
    assert found["rows_trained"] > 0 and found["notes"] == [] and found["collapsed"] is None
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
    wanted = {"steps", "reward_mean", "success_rate", "prompts", "rows", "rows_trained", "m_step/kl", "tokens"}
    for record in found:
        if record["kind"] == "step":
            assert wanted - record.keys() == set()
            assert (record["prompts"], record["rows"]) == (2, 6)


def test_every_step_has_a_line_of_times_and_no_time_is_among_the_metrics(undisturbed: Stack) -> None:
    found = timings(undisturbed.settings("undisturbed"))
    assert [r["step"] for r in found] == [0, 1, 2]
    wanted = {
        "wall_s", "eta_s", "tokens_per_s", "queue/waiting", "queue/pending", "seconds/rollout", "seconds/feedback",
        "seconds/m_step", "seconds/e_step", "seconds/learn", "seconds/publish", "seconds/step",
    }  # fmt: skip
    for times in found:
        assert wanted - times.keys() == set()
        assert 0 < times["seconds/m_step"] < times["seconds/learn"] < times["seconds/step"]
        assert times["seconds/publish"] > 0
    assert found[0]["wall_s"] < found[2]["wall_s"] and found[2]["eta_s"] == 0
    keys = {key for record in records(undisturbed.settings("undisturbed")) for key in record}
    assert keys & wanted == set() and not any(key.startswith(("seconds/", "queue/")) for key in keys)


@pytest.mark.parametrize(
    "algorithm", ["vpd", "vpd_grpo", "sdpo", "sdpo_grpo", "grpo", "reshaped_grpo", "reweighted_grpo"]
)
def test_two_runs_with_one_seed_write_the_same_metrics_byte_for_byte(services: Stack, algorithm: str) -> None:
    both = []
    for place in ("first", "second"):
        settings = services.settings(
            f"same-{algorithm}",
            run={"dir": str(services.root / "runs" / place)},
            algorithm={"name": algorithm},
        )
        run(settings)
        both.append(settings)
    assert metrics(both[0]) == metrics(both[1])
    steps = [r for r in records(both[0]) if r["kind"] == "step"]
    # Otherwise equality says little: the policy moves, and each step is of its own.
    assert sum(r["optimizer_steps"] for r in steps) == summary(both[0])["optimizer_steps"] > 0
    assert len({json.dumps({**r, "step": 0}) for r in steps}) == len(steps)
    assert not same(final_weights(both[0]), load_file(services.model / "model.safetensors"))


def test_the_margin_against_the_initial_model_is_recorded_and_survives_a_resume(services: Stack) -> None:
    """After a resume the initial model is still the one the run began with, not the checkpoint's."""
    both = []
    for name, stops in (("diagnosed", None), ("diagnosed-stopped", 1)):
        settings = services.settings(name, learner={"checkpoint_every": 1, "diagnose_every": 1})
        run(settings, stop_after=stops)
        if stops is not None:
            run(settings)
        both.append(settings)
    assert metrics(both[0]) == metrics(both[1])
    steps = [r for r in records(both[0]) if r["kind"] == "step"]
    assert all("diagnosis/initial_failure_nats" in r for r in steps)
    apart = [r["diagnosis/initial_failure_nats"] != r["diagnosis/student_failure_nats"] for r in steps]
    assert apart == [False, True, True]


def test_another_seed_writes_other_metrics(services: Stack, undisturbed: Stack) -> None:
    settings = services.settings("undisturbed", run={"dir": str(services.root / "runs" / "other"), "seed": 6})
    run(settings)
    assert metrics(settings) != metrics(undisturbed.settings("undisturbed"))


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
    assert metrics(settings) == metrics(undisturbed.settings("undisturbed"))
    assert [r["step"] for r in timings(settings)] == [0, 1, 2]
    assert summary(settings)["rows_trained"] == summary(undisturbed.settings("undisturbed"))["rows_trained"]


@pytest.mark.parametrize(("where", "method"), [(Checkpoints, "save"), (Publisher, "publish")])
def test_a_run_that_died_beside_a_checkpoint_has_recorded_every_step_once(
    undisturbed: Stack, monkeypatch: pytest.MonkeyPatch, where: type, method: str
) -> None:
    real = getattr(where, method)

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        if 2 in arguments:
            monkeypatch.setattr(where, method, real)
            raise RuntimeError("died")
        return real(self, *arguments, **options)

    monkeypatch.setattr(where, method, dying)
    settings = undisturbed.settings(f"died-{method}")
    with pytest.raises(RuntimeError, match="died"):
        run(settings)
    assert [r["step"] for r in records(settings) if r["kind"] == "step"] == [0, 1]
    run(settings)
    assert metrics(settings) == metrics(undisturbed.settings("undisturbed"))
    assert [r["step"] for r in timings(settings)] == [0, 1, 2]


class Watching(SDPO):
    """Keeps the teacher accuracies it is told in its state, and dies once at a step it is told to."""

    dies_at: int | None = None

    def __init__(self, settings: Any, tools: Any) -> None:
        super().__init__(settings, tools)
        self.told: list[float] = []

    @property
    def wants_teacher_accuracy(self) -> bool:
        return True

    def observe_teacher(self, accuracy: float) -> None:
        self.told.append(accuracy)

    def train_step(self, batch: Batch) -> Metrics:
        if batch.step == Watching.dies_at:
            Watching.dies_at = None
            raise RuntimeError("died")
        return super().train_step(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"told": list(self.told), "sdpo": super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = list(state["told"])
        super().load_state_dict(state["sdpo"])


def watched(services: Stack, name: str, **more: Any) -> Any:
    run_settings = {"name": name, "dir": str(services.root / "runs"), "seed": 5, "steps": 4}
    evaluation = {"every": 2, "tasks": 3, "final_tasks": 2}
    return services.settings(name, run=run_settings, algorithm={"name": "sdpo"}, evaluation=evaluation, **more)


def told(settings: Any) -> Any:
    state = Checkpoints(RunDirectory(settings).path / "checkpoints", keep=2).load_newest()
    assert state is not None
    return state["algorithm"]["told"]


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "make", Watching)
    monkeypatch.setattr(Watching, "dies_at", None)


@pytest.mark.usefixtures("watching")
def test_an_algorithm_that_wants_it_is_told_the_teacher_s_accuracy_on_the_prompts_of_the_coming_step(
    services: Stack,
) -> None:
    settings = watched(services, "watched")
    run(settings)
    gates = [r for r in records(settings) if r["kind"] == "gate"]
    assert [r["step"] for r in gates] == [0, 2]
    assert told(settings) == [r["teacher_accuracy"] for r in gates]
    asked = {
        item.trajectory_id: item.task.id
        for request in services.judge.asked
        for item in request.items
        if item.trajectory_id.startswith("gate-")
    }
    coming = learner.load_tasks(settings.tasks, seed=settings.run.seed)
    for version in (0, 2):
        for who in ("student", "teacher"):
            tasks = [asked[f"gate-{who}-v{version}-{i}-0"] for i in range(3)]
            assert tasks == [task.id for task in coming.training(version, 3)]
    assert len(asked) == 12 and all(task.startswith("t") for task in asked.values())


@pytest.mark.usefixtures("watching")
def test_an_algorithm_is_told_of_no_prompt_that_is_too_long_to_train_on(services: Stack) -> None:
    tasks = write_tasks(services.root / "some_long.jsonl", 2)
    long = {"id": "long", "kind": "bytes", "messages": [{"role": "user", "content": "x" * 1024}]}
    tasks.write_text(tasks.read_text() + json.dumps(long) + "\n")
    settings = watched(services, "watched-long", tasks={"source": str(tasks)})
    run(settings)
    assert [r["tasks"] for r in records(settings) if r["kind"] == "gate"] == [3, 3]


@pytest.mark.usefixtures("watching")
def test_an_algorithm_is_told_once_also_where_the_run_was_stopped_or_died_after_it_was_told(services: Stack) -> None:
    whole = watched(services, "told-whole")
    run(whole)
    stopped = watched(services, "told-stopped")
    run(stopped, stop_after=1)
    assert len(told(stopped)) == 1
    run(stopped)
    died = watched(services, "told-died")
    Watching.dies_at = 2
    with pytest.raises(RuntimeError, match="died"):
        run(died)
    assert len(told(died)) == 1 and records(died)[-1]["kind"] == "gate"
    run(died)
    for settings in (stopped, died):
        assert told(settings) == told(whole) and len(told(whole)) == 2
        assert metrics(settings) == metrics(whole)
        assert same(final_weights(settings), final_weights(whole))


def test_an_algorithm_that_does_not_want_it_costs_no_rollouts_on_training_prompts(undisturbed: Stack) -> None:
    assert not [r for r in records(undisturbed.settings("undisturbed")) if r["kind"] == "gate"]


def test_where_every_source_abstains_nothing_is_trained_and_the_summary_says_so(services: Stack) -> None:
    services.judge.mode = "abstain"
    settings = services.settings(
        "abstaining", run={"name": "abstaining", "dir": str(services.root / "runs"), "steps": 1}
    )
    run(settings)
    found = summary(settings)
    assert found["rows_trained"] == 0 and found["accuracy_after"] is None
    assert found["best_accuracy"] is None and found["best_step"] is None and found["area_under_curve"] is None
    assert any("Trained on nothing" in note for note in found["notes"])
    assert same(final_weights(settings), load_file(services.model / "model.safetensors"))


def test_an_outcome_source_that_goes_away_stops_the_run_with_a_sentence_and_the_run_resumes(services: Stack) -> None:
    def settings(outage_s: float) -> object:
        source = {"url": services.judge_url, "role": "both", "timeout_s": 4}
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
