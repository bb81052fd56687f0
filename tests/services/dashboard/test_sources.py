"""What the sources table says of each source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dashboard.runs import RunFiles
from services.dashboard.runs.sources import quantile
from tests.services.dashboard.a_run import a_row, a_run, answer, write_rows


def test_answers_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    answers = [
        [answer(text="four", latency_ms=10.0), answer("critic", "a", latency_ms=900.0)],
        [answer(text="sixsix", latency_ms=20.0)],
        [answer(text=None, status="abstain", latency_ms=30.0)],
        [answer(text=None, status="error", latency_ms=5000.0)],
        [answer(text=None, status="timeout", latency_ms=5000.0)],
    ]
    write_rows(run, 0, [a_row(run, 0, 0, i, feedback=said) for i, said in enumerate(answers)])
    write_rows(run, 1, [a_row(run, 1, 0, 0, late=True)])
    code, critic = RunFiles(run.path).sources()
    assert (code.name, code.answers, code.said, code.share) == ("code", 5, 2, 0.4)
    assert (code.abstentions, code.errors, code.timeouts, code.chars_mean) == (1, 1, 1, 5.0)
    assert (code.latency_p50_ms, code.latency_p95_ms) == (20.0, 30.0)
    assert (critic.answers, critic.share, critic.latency_p50_ms) == (1, 0.2, 900.0)
    # This run is older than these figures.
    assert (code.in_prompt, code.success_lift.nats, code.teacher_lift_nats) == (None, None, None)


def test_lift_is_of_whole_responses_whose_prompt_held_the_source_by_outcome(tmp_path: Path) -> None:
    run = a_run(tmp_path)

    def row(number: int, reward: float, lift: list[float | None] | None, held: list[str]) -> dict[str, object]:
        return a_row(run, 0, 0, number, reward=reward, token_lift=lift, feedback_in_prompt=held)

    write_rows(
        run,
        0,
        [
            row(0, 1.0, [1.0, 0.5], ["code"]),
            row(1, 1.0, [0.5], ["code", "critic"]),
            row(2, 0.0, [-1.0, -1.0], ["code"]),
            row(3, 0.0, [9.0], []),
            row(4, 0.0, None, ["code"]),
            row(5, 0.0, [9.0, None], ["code"]),
        ],
    )
    by_name = {one.name: one for one in RunFiles(run.path).sources()}
    code, critic = by_name["code"], by_name["critic"]
    assert (code.success_lift.nats, code.success_lift.rollouts) == (1.0, 2)
    assert (code.failure_lift.nats, code.failure_lift.rollouts) == (-2.0, 1)
    assert code.teacher_lift_nats == 3.0 and code.in_prompt == pytest.approx(5 / 6)
    assert critic.success_lift.nats == 0.5 and critic.teacher_lift_nats is None


def test_only_the_last_steps_count_where_they_are_asked_for(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(3):
        write_rows(run, step, [a_row(run, step, 0, 0, feedback=[answer(f"source{step}")])])
    assert [one.name for one in RunFiles(run.path).sources(2)] == ["source1", "source2"]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_the_share_does_not_exceed(values: list[float], q: float) -> None:
    found = quantile(sorted(values), q)
    assert found in values
    assert sum(v <= found for v in values) >= q * len(values) - 1e-9
    assert sum(v < found for v in values) <= q * len(values) + 1e-9


def test_the_lift_in_the_e_step_is_the_mean_of_its_steps_that_saw_both_outcomes(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    lifts = [(2.0, -1.0), (3.0, None), (4.0, 3.0)]
    for step, (success, failure) in enumerate(lifts):
        of_outcome = {"success": success, "failure": failure}
        known = {rows: lift for rows, lift in of_outcome.items() if lift is not None}
        figures = {f"source/code/e_step_{rows}_lift_nats": lift for rows, lift in known.items()}
        run.record({"kind": "step", "step": step, **figures})
        write_rows(run, step, [a_row(run, step, 0, 0, feedback=[answer(text="no")])])
    files = RunFiles(run.path)
    assert files.sources()[0].e_step_lift_nats == 2.0
    assert files.sources(last_steps=1)[0].e_step_lift_nats == 1.0
    assert files.sources(last_steps=2)[0].e_step_lift_nats == 1.0
