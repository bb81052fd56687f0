"""The tables of `vpd eval`, letter by letter."""

from __future__ import annotations

import pytest

from cli.evaluation_display import print_comparison, print_result
from trainer.evaluation.figures import Figure
from trainer.evaluation.result import Comparison, GroupFigures, Result, WhoFigures


def group(avg: float, *, tasks: int, k: bool = True, informed: float | None = None, unjudged: int = 0) -> GroupFigures:
    return GroupFigures(
        tasks=tasks,
        judged=4 * tasks - unjudged,
        unjudged=unjudged,
        avg=Figure(avg, avg - 0.05, avg + 0.05, tasks),
        pass_at={4: Figure(avg + 0.1, None, None, tasks)} if k else {},
        truncated=0.031,
        tokens=812.4,
        informed=informed,
    )


def whole() -> Result:
    student = WhoFigures(
        all=group(0.5, tasks=30, unjudged=3),
        mean_of_domains=group(0.6, tasks=30, unjudged=3),
        domains={"sciknoweval-chemistry": group(0.4, tasks=20), "sciknoweval-physics": group(0.8, tasks=10)},
        unjudged={"infra": 2, "data": 0, "abstained": 1},
    )
    teacher = WhoFigures(
        all=group(0.7, tasks=30, k=False, informed=0.5),
        mean_of_domains=group(0.75, tasks=30, k=False, informed=0.5),
        domains={
            "sciknoweval-chemistry": group(0.65, tasks=20, k=False, informed=0.6),
            "sciknoweval-physics": group(0.85, tasks=10, k=False, informed=0.3),
        },
        unjudged={"infra": 0, "data": 0, "abstained": 0},
    )
    return Result(
        digest="0123456789ab",
        identity={
            "policy": {"model": "m", "run_id": "demo-1a2b3c", "version": 80, "sha256": "0"},
            "tasks": {"source": "sciknoweval", "count": 30},
            "sampling": {"temperature": 0.6, "top_p": 0.95},
        },
        samples=4,
        student=student,
        teacher=teacher,
        teacher_gain=Figure(0.2, 0.11, 0.29, 30),
        counts={},
    )


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())


def test_a_result_has_a_row_for_each_domain_and_says_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(whole())
    assert printed(capsys) == TABLE


def test_a_comparison_has_a_sign_and_says_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    gain = Figure(0.034, -0.002, 0.071, 26)
    print_comparison(
        ("one", "other"), Comparison(student=gain, teacher=None, domains={"all of one": gain}, only_in_one=4)
    )
    assert printed(capsys) == COMPARISON


TABLE = """\
demo-1a2b3c, version 80 on 30 held-out tasks of sciknoweval, T 0.6, top-p 0.95, in %
┏━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┓
┃ domain                ┃ policy  ┃ tasks ┃             avg@4 ┃ pass@4 ┃ informed ┃ truncated ┃ tokens ┃ unjudged ┃
┡━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━┩
│ sciknoweval-chemistry │ student │    20 │ 40.0 [35.0, 45.0] │   50.0 │          │         3 │    812 │        0 │
│ sciknoweval-chemistry │ teacher │    20 │ 65.0 [60.0, 70.0] │        │       60 │         3 │    812 │        0 │
├───────────────────────┼─────────┼───────┼───────────────────┼────────┼──────────┼───────────┼────────┼──────────┤
│ sciknoweval-physics   │ student │    10 │ 80.0 [75.0, 85.0] │   90.0 │          │         3 │    812 │        0 │
│ sciknoweval-physics   │ teacher │    10 │ 85.0 [80.0, 90.0] │        │       30 │         3 │    812 │        0 │
├───────────────────────┼─────────┼───────┼───────────────────┼────────┼──────────┼───────────┼────────┼──────────┤
│ mean of domains       │ student │    30 │ 60.0 [55.0, 65.0] │   70.0 │          │         3 │    812 │        3 │
│ mean of domains       │ teacher │    30 │ 75.0 [70.0, 80.0] │        │       50 │         3 │    812 │        0 │
├───────────────────────┼─────────┼───────┼───────────────────┼────────┼──────────┼───────────┼────────┼──────────┤
│ all                   │ student │    30 │ 50.0 [45.0, 55.0] │   60.0 │          │         3 │    812 │        3 │
│ all                   │ teacher │    30 │ 70.0 [65.0, 75.0] │        │       50 │         3 │    812 │        0 │
└───────────────────────┴─────────┴───────┴───────────────────┴────────┴──────────┴───────────┴────────┴──────────┘
Intervals: 95 %, bootstrap over tasks.
Teacher minus student: +20.0 [+11.0, +29.0] points.
Rollouts of the student without an outcome, left out of every figure: 2 because the outcome source failed (the same command asks it again), 1 because the outcome source abstained.
"""  # noqa: E501
COMPARISON = """\
other minus one, in points of avg@k
┏━━━━━━━━┳━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┓
┃ domain ┃ policy  ┃ tasks ┃ difference ┃ 95 % interval ┃
┡━━━━━━━━╇━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━━━┩
│ all    │ student │    26 │       +3.4 │  [-0.2, +7.1] │
└────────┴─────────┴───────┴────────────┴───────────────┘
4 tasks are in one of the two alone and are left out.
"""
