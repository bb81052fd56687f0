"""What an evaluation comes to: tasks weigh alike, nothing without an outcome counts, results compare in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import DataError, SettingsError
from shared.protocol import FeedbackFailure, Message, Task
from trainer.evaluation.attempts import Attempts, Key, Verdict, Written
from trainer.evaluation.counts import domains
from trainer.evaluation.identity import Identity, differences, digest
from trainer.evaluation.result import Result, as_json, compare, make_result, read_result

INFRA = FeedbackFailure(class_="infra", message="away")
TASKS = [
    Task(id=name, kind="choice", messages=[Message(role="user", content="?")])
    for name in ("sciknoweval-chemistry-1", "sciknoweval-chemistry-2", "sciknoweval-physics-1")
]


def identity(*, samples: int, teacher: str = "none") -> Identity:
    return {
        "policy": {"model": "m", "sha256": None},
        "tasks": {"source": "tasks.jsonl", "held_out": None, "count": 3, "sha256": "0"},
        "sampling": {"samples": samples, "temperature": 0.6, "top_p": 0.95, "max_tokens": 9, "seed": 1},
        "teacher": {"told": teacher, "prompt": None},
    }


def attempts(**outcomes: list[list[Any]]) -> Attempts:
    """By who and task: True, False, None (the source failed) or "abstained"; "cut" is a failure at the token limit."""
    made = Attempts()
    for who, by_task in outcomes.items():
        for task, row in zip(TASKS, by_task, strict=True):
            for sample, outcome in enumerate(row):
                made.add(lines(Key(who, task.id, sample), outcome))  # type: ignore[arg-type]
    return made


def lines(key: Key, outcome: Any) -> list[Written | Verdict]:
    cut = outcome == "cut"
    written = Written(
        **key._asdict(),
        text="",
        finish_reason="length" if cut else "stop",
        tokens=9 if cut else 3,
        informed=key.who == "teacher" and key.sample == 0,
    )
    success = False if cut else outcome if isinstance(outcome, bool) else None
    return [written, Verdict(**key._asdict(), success=success, failure=INFRA if outcome is None else None)]


def result(*, teacher: list[list[Any]] | None = None, ks: tuple[int, ...] = (2,), student: list[list[Any]]) -> Result:
    outcomes = {"student": student} | ({"teacher": teacher} if teacher else {})
    what = identity(samples=len(student[0]), teacher="feedback" if teacher else "none")
    return make_result(what, TASKS, attempts(**outcomes), ks)


def test_every_figure_of_a_result_is_in_its_document() -> None:
    student = [[True, False], ["cut", False], [True, True]]
    teacher = [[True, True], [True, False], [True, True]]
    document = json.loads(as_json(result(student=student, teacher=teacher)))
    avg = document["student"]["all"]["avg"]
    assert avg.keys() == {"value", "low", "high", "tasks"} and avg["value"] == pytest.approx(0.5)
    assert document["student"]["all"] | {"avg": None, "pass_at": None} == {
        "tasks": 3,
        "judged": 6,
        "unjudged": 0,
        "avg": None,
        "pass_at": None,
        "truncated": pytest.approx(1 / 6),
        "tokens": 4.0,
        "informed": None,
    }
    assert document["student"]["all"]["pass_at"]["2"]["value"] == pytest.approx(2 / 3)
    by_domain = {name: group["avg"]["value"] for name, group in document["student"]["domains"].items()}
    assert by_domain == {"sciknoweval-chemistry": 0.25, "sciknoweval-physics": 1.0}
    assert document["student"]["mean_of_domains"]["avg"]["value"] == pytest.approx(0.625)
    assert document["teacher"]["all"]["avg"]["value"] == pytest.approx(5 / 6)
    assert document["teacher"]["all"]["informed"] == 0.5 and document["teacher"]["all"]["pass_at"] == {}
    assert document["teacher_gain"]["value"] == pytest.approx(1 / 3)
    assert document["student"]["unjudged"] == {"infra": 0, "data": 0, "abstained": 0}
    assert document["counts"]["student"]["sciknoweval-chemistry-1"] == {
        "domain": "sciknoweval-chemistry",
        "judged": 2,
        "succeeded": 1,
    }
    assert document.keys() == set(Result.model_fields)


def test_a_rollout_without_an_outcome_is_counted_and_is_no_failure() -> None:
    found = result(student=[[True, None, "abstained"], [None, None, None], [True, False, True]], ks=(2, 3)).student
    assert found.all.avg is not None and found.all.avg.value == pytest.approx((1 + 2 / 3) / 2)
    assert (found.all.judged, found.all.unjudged, found.all.avg.tasks) == (4, 5, 2)
    assert found.unjudged == {"infra": 4, "data": 0, "abstained": 1}
    two, three = found.all.pass_at[2], found.all.pass_at[3]
    assert two is not None and three is not None and (two.tasks, three.tasks) == (1, 1)


def test_an_attempt_the_teacher_was_never_asked_about_counts_among_what_the_source_owes() -> None:
    made = attempts(student=[[True], [None], [False]])
    for task in (TASKS[0], TASKS[2]):
        made.add(lines(Key("teacher", task.id, 0), True))
    found = make_result(identity(samples=1, teacher="feedback"), TASKS, made, ()).teacher
    assert found is not None and found.all.avg is not None and found.all.avg.value == 1.0
    assert found.all.unjudged == 1 and found.unjudged["infra"] == 1


def test_nothing_judged_has_no_accuracy() -> None:
    found = result(student=[[None], ["abstained"], [None]], ks=())
    assert found.nothing_judged and found.student.all.avg is None


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = result(
        student=[[True, False], [None, False], [True, True]], teacher=[[True, None], [True, True], [None] * 2]
    )
    (tmp_path / "result.json").write_text(as_json(made))
    assert read_result(tmp_path / "result.json") == made


def test_what_is_no_result_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_result(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"other\.json is no result of `vpd eval`"):
        read_result(tmp_path / "other.json")


def test_a_comparison_pairs_tasks_and_so_sees_what_both_intervals_hide() -> None:
    """Every task is one point in ten better: without pairs, tasks that differ among themselves would drown it."""
    hard = [[True] * 1 + [False] * 9, [True] * 4 + [False] * 6, [True] * 8 + [False] * 2]
    better = [[True] * (sum(row) + 1) + [False] * (9 - sum(row)) for row in hard]
    one, other = (result(student=rows, ks=()) for rows in (hard, better))
    found = compare(one, other)
    assert found.student is not None and found.student.low is not None and found.student.high is not None
    assert (found.student.value, found.student.low, found.student.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.domains.keys() == {"sciknoweval-chemistry", "sciknoweval-physics"} and found.teacher is None
    assert one.student.all.avg is not None and other.student.all.avg is not None
    assert other.student.all.avg.low is not None and one.student.all.avg.high is not None
    assert other.student.all.avg.low < one.student.all.avg.high


def test_tasks_without_an_outcome_in_both_are_not_compared() -> None:
    found = compare(result(student=[[True], [None], [False]]), result(student=[[True], [True], [True]]))
    assert found.student is not None and (found.student.value, found.student.tasks) == (0.5, 2)


def test_results_of_other_tasks_cannot_be_compared() -> None:
    made = result(student=[[True], [True], [True]])
    renamed = {who: {f"x{task}": one for task, one in counts.items()} for who, counts in made.counts.items()}
    with pytest.raises(SettingsError, match="no task in common"):
        compare(made, made.model_copy(update={"counts": renamed}))


def test_the_domain_of_a_task_is_the_beginning_of_its_id_where_that_makes_a_few() -> None:
    def found(*ids: str) -> set[str]:
        return set(domains([Task(id=i, kind="math", messages=TASKS[0].messages) for i in ids]).values())

    assert found("sciknoweval-chemistry-1f0c", "sciknoweval-physics-03aa") == {
        "sciknoweval-chemistry",
        "sciknoweval-physics",
    }
    assert found("math500-1f0c", "aime24-1f0c", "aime24-03aa") == {"math500", "aime24"}
    assert found("t1", "aime24-1f0c") == {"math"}
    assert found(*(f"{number:04x}-4b1d" for number in range(17))) == {"math"}


def test_an_identity_that_differs_says_in_what() -> None:
    one, other = identity(samples=4), identity(samples=16, teacher="feedback")
    assert digest(one) != digest(other) and digest(one) == digest(json.loads(json.dumps(one)))
    assert differences(one, other) == ["sampling.samples (4, now 16)", "teacher.told (none, now feedback)"]
