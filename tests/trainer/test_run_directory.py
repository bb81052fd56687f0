"""A run's files: identity, other settings refused, records forgotten and torn, a disk that takes no more."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InfrastructureError, SettingsError, VPDError
from shared.settings import Settings
from trainer.run_directory import RunDirectory


def settings(tmp_path: Path, **changes: Any) -> Settings:
    run = {"name": "trial", "dir": str(tmp_path), **changes.pop("run", {})}
    return Settings.model_validate({"run": run, **changes})


def test_a_new_run_has_an_identity_that_stays(tmp_path: Path) -> None:
    first = RunDirectory(settings(tmp_path)).identity
    assert first.run_id.startswith("trial-") and len(first.run_id) == len("trial-") + 6
    assert RunDirectory(settings(tmp_path)).identity == first
    assert RunDirectory(settings(tmp_path, run={"name": "other"})).identity.run_id != first.run_id
    kept = json.loads((tmp_path / "trial" / "settings.json").read_text())
    assert kept["run"]["seed"] == 1 and kept["algorithm"]["name"] == "vpd"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"algorithm": {"name": "grpo"}}, "algorithm"),
        ({"rollout": {"temperature": 0.5}}, "rollout"),
        ({"run": {"seed": 2}}, r"run\.seed"),
        ({"teacher_prompt": {"control": "shuffled"}}, "teacher_prompt"),
        ({"model": {"path": "elsewhere"}, "tasks": {"world_seed": 3}}, "model, tasks"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    RunDirectory(settings(tmp_path))
    with pytest.raises(SettingsError, match=named) as caught:
        RunDirectory(settings(tmp_path, **change))
    assert "run.name" in str(caught.value)


def test_what_does_not_change_the_run_may_differ(tmp_path: Path) -> None:
    first = RunDirectory(settings(tmp_path)).identity
    moved = {"inference": {"url": "http://127.0.0.1:9999"}, "learner": {"checkpoint_every": 1}}
    assert RunDirectory(settings(tmp_path, **moved)).identity == first


def test_two_learners_never_train_one_run(tmp_path: Path) -> None:
    first, second = RunDirectory(settings(tmp_path)), RunDirectory(settings(tmp_path))
    with first.held(), pytest.raises(VPDError, match="Another learner trains the run in"), second.held():
        pass
    with second.held():
        pass


def test_no_key_is_written_to_disk(tmp_path: Path) -> None:
    source = {"url": "http://127.0.0.1:1", "role": "both", "api_key": "hidden-source-key"}
    RunDirectory(settings(tmp_path, api_key="hidden-stack-key", feedback={"sources": {"code": source}}))
    assert not [f for f in (tmp_path / "trial").iterdir() if "hidden" in f.read_text()]


def timings(run: RunDirectory) -> list[Any]:
    return [json.loads(line) for line in (run.path / "timings.jsonl").read_text().splitlines()]


def record(kind: str, step: int) -> dict[str, Any]:
    return {"kind": kind, "step": step}


def test_forgetting_keeps_the_steps_before_and_the_evaluation_of_the_policy_at_hand(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    kept = [record("evaluation", 0), record("step", 0), record("step", 1), record("evaluation", 2), record("gate", 2)]
    for one in [*kept, record("step", 2), record("step", 3), record("evaluation", 4), record("gate", 4)]:
        run.record(one)
    run.forget_after(2)
    assert run.records() == kept


def test_forgetting_leaves_as_many_steps_of_times_as_of_metrics(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    for step in range(4):
        run.record_timings({"step": step, "wall_s": step / 3})
        run.record(record("step", step))
    with (run.path / "timings.jsonl").open("a") as file:
        file.write('{"step": 4, "wa')
    run.forget_after(2)
    assert timings(run) == [{"step": 0, "wall_s": 0.0}, {"step": 1, "wall_s": 1 / 3}]
    assert [r["step"] for r in run.records()] == [0, 1]


def test_forgetting_what_comes_later_leaves_the_bytes_of_what_came_before(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    run.record({**record("step", 0), "kl": 0.1 + 0.2, "rate": 1e-300, "rows": 6.0, "note": "n\u00e4ive\u2028"})
    before = (run.path / "metrics.jsonl").read_bytes()
    run.record(record("step", 1))
    run.forget_after(1)
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_a_number_that_is_not_finite_is_null_in_the_metrics(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    run.record({**record("step", 0), "norm": float("nan"), "loss": float("inf"), "kl": 0.5})

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    line = (run.path / "metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=refuse)
    assert found == {**record("step", 0), "norm": None, "loss": None, "kl": 0.5}


def test_a_torn_last_line_is_left_out_and_repaired_before_more_is_written(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    run.record(record("step", 0))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert run.records() == [record("step", 0)]
    run.forget_after(1)
    run.record(record("step", 1))
    assert run.records() == [record("step", 0), record("step", 1)]


def test_a_run_without_records_has_none(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    run.forget_after(0)
    assert run.records() == []


def test_a_run_is_finished_once_its_summary_is_written(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path))
    assert not run.finished
    run.write_summary({"algorithm": "vpd"})
    assert RunDirectory(settings(tmp_path)).finished


@pytest.mark.parametrize("what", ["record", "record_timings", "write_trajectories", "write_summary", "forget_after"])
def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path: Path, what: str) -> None:
    run = RunDirectory(settings(tmp_path))
    run.record(record("step", 0))
    arguments = {
        "record": record("step", 1),
        "record_timings": {"step": 1},
        "write_trajectories": [{"trajectory_id": "any"}],
        "write_summary": {"algorithm": "vpd"},
        "forget_after": 1,
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(InfrastructureError, match="cannot be written: File too large") as caught:
            getattr(run, what)(*([0] if what == "write_trajectories" else []), arguments[what])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert run.records() == [record("step", 0)]


def test_a_run_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "trial").write_text("a file")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        RunDirectory(settings(tmp_path))
