"""What is read of a run while it is written: records, rollouts by step, and their lists."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
from trainer_builders import group, said, trajectory

from services.dashboard.runs import RolloutQuery, RunFiles, RunsFolder
from services.dashboard.runs.step_files import StepFiles
from shared.errors import DataError
from shared.settings import TeacherPromptSettings
from tests.services.dashboard.a_run import a_row, a_run, answer, do_step, evaluate, trajectory_id, write_rows
from trainer.batch import BatchBuilder


def test_a_resumed_run_shows_a_redone_step_once_and_none_that_it_has_not_reached_again(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    files = RunFiles(run.path)
    for step in range(4):
        do_step(run, step)
    evaluate(run, 4, 0.5)
    assert [(r["kind"], r["step"]) for r in files.metrics()][-2:] == [("step", 3), ("evaluation", 4)]
    run.forget_after(2)
    do_step(run, 2, reward_mean=0.9)
    run.record({"kind": "step", "step": 2, "steps": 8, "reward_mean": 0.7})
    assert [(r["step"], r["reward_mean"]) for r in files.metrics()] == [(0, 0.0), (1, 0.1), (2, 0.7)]
    assert [r["step"] for r in files.timings()] == [0, 1, 2]


def test_an_evaluation_stands_before_the_step_whose_policy_it_measured(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    evaluate(run, 0, 0.1)
    assert [r["kind"] for r in RunFiles(run.path).metrics()] == ["evaluation", "step"]


def test_a_run_that_has_begun_nothing_is_there_and_empty(tmp_path: Path) -> None:
    files = RunFiles(a_run(tmp_path).path)
    assert files.identity.name == "demo" and files.settings is not None and files.summary is None
    assert (files.metrics(), files.timings(), files.steps(), files.sources()) == ([], [], [], [])
    assert files.rollouts(RolloutQuery()).items == [] and files.groups(RolloutQuery()).total == 0
    with pytest.raises(DataError, match="holds no run"):
        _ = RunFiles(tmp_path).identity


def test_a_run_is_finished_by_its_summary_and_stopped_when_nothing_is_written_for_long(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    files = RunFiles(run.path)
    assert files.state(files.written_at + 100) == "running"
    assert files.state(files.written_at + 121) == "stopped"
    run.record_timings({"step": 1, "seconds/step": 600.0})
    assert files.state(files.written_at + 2900) == "running"
    run.write_summary({"accuracy_after": 0.5})
    assert files.state(files.written_at + 1e9) == "finished"


def test_what_the_learner_wrote_of_a_rollout_is_read_as_it_was(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    builder = BatchBuilder(TeacherPromptSettings(), render=lambda _: [1], max_context=999, seed=0, shadow=frozenset())
    name = trajectory_id(run, 3, 0, 0).rsplit("-r", 1)[0]
    rows = [trajectory(0, group=name, text="näive\u2028try", feedback=[said("wrong"), said(None, status="abstain")])]
    run.write_trajectories(builder.build(3, [group(rows, step=3)]))
    found = RunFiles(run.path).rollout(f"{name}-r00")
    assert found is not None and found.response == "näive\u2028try" and found.success is False
    assert [(f.source.name, f.status, f.text) for f in found.feedback] == [
        ("code", "ok", "wrong"),
        ("code", "abstain", None),
    ]
    assert found.m_step_teacher_prompt is not None and "wrong" in found.m_step_teacher_prompt
    # A run that is older than these fields: unknown, not empty.
    if "token_ends" not in json.loads((run.path / "trajectories" / "step_000003.jsonl").read_text()):
        assert (found.token_ends, found.token_lift, found.feedback_in_prompt) == (None, None, None)


def test_a_step_s_file_is_indexed_once_and_again_when_it_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    files = RunFiles(run.path)
    assert files.rollouts(RolloutQuery()).total == 6
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or original(self, *a, **k))
    assert files.rollouts(RolloutQuery(min_reward=1.0, limit=1)).total == 2
    assert len(opened) == 1, "only the row on the page is read"
    write_rows(run, 0, [a_row(run, 0, 0, 0, response="another try")])
    assert [line.response for line in files.rollouts(RolloutQuery()).items] == ["another try"]


def test_a_torn_line_and_one_of_another_shape_are_no_rollouts(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    write_rows(run, 0, [a_row(run, 0, 0, 0), {"trajectory_id": 7}, a_row(run, 0, 0, 1)])
    with (run.path / "trajectories" / "step_000000.jsonl").open("a") as file:
        file.write(json.dumps(a_row(run, 0, 0, 2))[:-9])
    (run.path / "trajectories" / ".step_000001.jsonl.tmp").write_text("half")
    files = RunFiles(run.path)
    assert [line.trajectory_id[-3:] for line in files.rollouts(RolloutQuery()).items] == ["r00", "r01"]
    assert files.steps() == [0]


def test_only_so_many_indexes_are_kept(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(4):
        do_step(run, step)
    files = StepFiles(run.path / "trajectories", kept=2)
    assert [len(files.entries(step)) for step in range(4)] == [6] * 4
    assert list(files._indexes) == [2, 3]


@pytest.mark.parametrize("sort", ["newest", "best", "worst"])
@pytest.mark.parametrize("kind", ["rollouts", "groups"])
def test_pages_together_are_the_whole_list_though_the_run_goes_on_meanwhile(
    tmp_path: Path, sort: str, kind: str
) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        do_step(run, step)
    write_rows(run, 3, [a_row(run, 3, g, r, reward=None) for g in range(2) for r in range(3)])
    files = RunFiles(run.path)
    whole = getattr(files, kind)(RolloutQuery(sort=sort, limit=200))
    seen, cursor = [], None
    for number in itertools.count(4):
        page = getattr(files, kind)(RolloutQuery(sort=sort, limit=5, cursor=cursor))
        seen += page.items
        do_step(run, number)
        if (cursor := page.next_cursor) is None:
            break
    assert seen == whole.items and len(seen) == whole.total == (24 if kind == "rollouts" else 8)


def test_worst_is_the_lowest_reward_first_and_a_rollout_without_one_comes_last(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    rewards = [0.5, None, 1.0, 0.0]
    write_rows(run, 0, [a_row(run, 0, 0, i, reward=reward) for i, reward in enumerate(rewards)])
    files = RunFiles(run.path)
    assert [line.reward for line in files.rollouts(RolloutQuery(sort="worst")).items] == [0.0, 0.5, 1.0, None]
    assert [line.reward for line in files.rollouts(RolloutQuery(sort="best")).items] == [1.0, 0.5, 0.0, None]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({"source": "code"}, [0, 2, 3]),
        ({"source": "code", "source_status": "timeout"}, [1]),
        ({"source": "critic"}, [2]),
        ({"min_reward": 0.5}, [2, 3]),
        ({"max_reward": 0.5}, [0, 2]),
        ({"truncated": True}, [3]),
        ({"late": True}, [0]),
        ({"search": "STRASSE"}, [2]),
        ({"search": "said by the critic"}, [2]),
        ({"search": "question 0", "min_reward": 0.9}, [3]),
        ({"from_step": 1}, []),
        ({"to_step": 0, "from_step": 0}, [0, 1, 2, 3]),
    ],
)
def test_filters_leave_the_rows_that_they_name(tmp_path: Path, query: dict[str, object], rows: list[int]) -> None:
    run = a_run(tmp_path)
    two = [answer(), answer("critic", "Said by the critic")]
    write_rows(
        run,
        0,
        [
            a_row(run, 0, 0, 0, reward=0.0, late=True),
            a_row(run, 0, 0, 1, reward=None, feedback=[answer(status="timeout", text=None)]),
            a_row(run, 0, 0, 2, reward=0.5, feedback=two, response="Die Straße"),
            a_row(run, 0, 0, 3, reward=1.0, finish_reason="length"),
        ],
    )
    found = RunFiles(run.path).rollouts(RolloutQuery.model_validate(query))
    assert [int(line.trajectory_id[-2:]) for line in found.items] == rows and found.total == len(rows)


def test_a_query_looks_at_the_last_hundred_steps_unless_it_names_others(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(105):
        write_rows(run, step, [a_row(run, step, 0, 0)])
    files = RunFiles(run.path)
    page = files.rollouts(RolloutQuery())
    assert (page.total, page.from_step, page.to_step) == (100, 5, 104)
    page = files.rollouts(RolloutQuery(from_step=0, to_step=3))
    assert (page.total, page.from_step, page.to_step) == (4, 0, 3)


@pytest.mark.parametrize("cursor", ["", "x", "W10=", "WyJiZXN0IiwwLDIsWzBdXQ==", "bnVsbA==", "é"])
def test_a_cursor_that_is_none_of_ours_is_refused(tmp_path: Path, cursor: str) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    with pytest.raises(DataError, match="Field 'cursor' is wrong"):
        RunFiles(run.path).rollouts(RolloutQuery(cursor=cursor))


def test_a_group_comes_with_all_its_siblings_and_says_how_many_match(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    write_rows(run, 0, [a_row(run, 0, g, r, reward=float(g == 1 and r == 1)) for g in range(2) for r in range(3)])
    files = RunFiles(run.path)
    (only,) = files.groups(RolloutQuery(min_reward=1.0)).items
    assert (only.matching, len(only.rollouts), only.reward_mean) == (1, 3, pytest.approx(1 / 3))
    assert [r.response for r in files.siblings(0, only.group_id)] == ["attempt 0", "attempt 1", "attempt 2"]
    assert files.siblings(0, "nobody") == []


def test_a_rollout_that_was_trained_on_again_is_found_at_both_steps(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    do_step(run, 0)
    name = trajectory_id(run, 0, 1, 2)
    again = a_row(run, 0, 1, 2) | {"step": 3, "late": True, "m_step_teacher_prompt": "with a critique"}
    write_rows(run, 3, [a_row(run, 3, 0, 0), again])
    files = RunFiles(run.path)
    assert files.appearances(name) == [0, 3]
    first, second = files.rollout(name), files.rollout(name, 3)
    assert first is not None and not first.late
    assert second is not None and second.late and second.m_step_teacher_prompt == "with a critique"
    assert files.rollout(name, 2) is None and files.rollout("demo-s000000-g000-r99") is None


def test_an_export_has_every_rollout_that_matches(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        do_step(run, step)
    files = RunFiles(run.path)
    exported = [(r.step, r.trajectory_id) for r in files.export(RolloutQuery(min_reward=1.0))]
    assert exported == sorted(exported) and len(exported) == files.rollouts(RolloutQuery(min_reward=1.0)).total


def test_runs_are_listed_the_last_written_first_and_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for age, name in enumerate(["new", "old"]):
        run = a_run(runs, name)
        do_step(run, 0)
        for file in run.path.rglob("*"):
            os.utime(file, (1e9 - age, 1e9 - age))
    a_run(tmp_path, "outside")
    (runs / "no_run").mkdir()
    folder = RunsFolder(runs)
    assert folder.names() == ["new", "old"]
    opened = folder.run("new")
    assert opened is not None and opened is folder.run("new")
    for name in ("../outside", "..", "no_run", "", "new/", "new\n", "nobody"):
        assert folder.run(name) is None
    assert RunsFolder(tmp_path / "nowhere").names() == []
