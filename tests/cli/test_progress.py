"""What is shown of a run's metrics."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from cli.progress import Progress, evaluation_line, gate_line, result_lines, step_line

STEP = {
    "kind": "step",
    "step": 11,
    "steps": 80,
    "reward_mean": 0.25,
    "success_rate": 0.125,
    "rows_trained": 90,
    "m_step/kl": 0.0123,
    "e_step/margin": 0.5,
    "teacher/success_lift_nats": 0.75,
    "teacher/failure_lift_nats": -1.5,
}
TIMES = {"step": 11, "tokens_per_s": 321.4, "queue/waiting": 2, "queue/pending": 16, "eta_s": 75}
EVALUATION = {"kind": "evaluation", "step": 10, "student_accuracy": 0.25, "teacher_accuracy": None}


def test_a_step_is_one_line_with_every_number_people_watch() -> None:
    assert step_line(STEP | TIMES, 80) == (
        "step 12/80: reward 0.250, success 12.5%, rows trained 90, KL 0.0123, implicit-reward margin +0.500, "
        "tokens/s 321, teacher lift in nats +0.75 on success, -1.50 on failure, queue 2 waiting, 16 in work, 1:15 left"
    )


def test_numbers_an_algorithm_does_not_have_are_left_out() -> None:
    assert step_line({"step": 0, "reward_mean": 0.5}, 80) == "step 1/80: reward 0.500, ? left"
    lift = {"step": 0, "teacher/failure_lift_nats": -0.25, "teacher/success_lift_nats": None}
    assert step_line(lift, 80) == "step 1/80: teacher lift in nats -0.25 on failure, ? left"
    assert evaluation_line(EVALUATION) == "held out, after 10 steps: student 25.0 %"


def test_a_gate_says_that_its_prompts_are_not_held_out() -> None:
    gate = {"kind": "gate", "step": 10, "student_accuracy": 0.25, "teacher_accuracy": 0.5}
    assert gate_line(gate) == "on prompts to be trained on, after 10 steps: student 25.0 %, teacher 50.0 %"
    out = io.StringIO()
    with Progress(Console(file=out, width=200), 80) as progress:
        progress.update([gate])
    assert out.getvalue() == gate_line(gate) + "\n"


def test_a_step_is_shown_with_its_own_times() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200), 2) as progress:
        both = [TIMES | {"step": 0, "eta_s": 61}, TIMES | {"step": 1, "eta_s": 1}]
        progress.update([STEP | {"step": 0}], both)
        progress.update([STEP | {"step": 1}])
    assert [line.rpartition(", ")[2] for line in out.getvalue().splitlines()] == ["1:01 left", "0:01 left"]


def test_without_a_terminal_a_long_run_takes_few_lines_and_the_last_step_is_among_them() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200), 1000) as progress:
        progress.update([STEP | {"step": step} for step in range(1000)])
    lines = out.getvalue().splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[-1].startswith("step 1000/1000")


def test_records_that_are_read_again_after_a_resume_are_printed_once() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=200), 3) as progress:
        for last in (1, 3):
            progress.update([EVALUATION | {"step": 0}, *(STEP | {"step": step} for step in range(last))])
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == [
        "held out, after 0 steps",
        "step 1/3",
        "step 2/3",
        "step 3/3",
    ]


def test_on_a_terminal_the_live_display_shows_steps_numbers_and_accuracies() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with Progress(console, 80) as progress:
        progress.status("Starting redis")
        progress.update(
            [EVALUATION | {"step": 0, "teacher_accuracy": 0.5}, EVALUATION | {"student_accuracy": 0.5}, STEP], [TIMES]
        )
        progress.say("inference is ready.")
    text = out.getvalue()
    for words in ("step 12 of 80", "0.0123", "+0.500", "25.0 % → 50.0 %", "1:15 left", "inference is ready."):
        assert words in text


def test_the_result_says_before_and_after_and_where_the_curve_is(tmp_path: Path) -> None:
    summary = {
        "accuracy_before": 0.25,
        "accuracy_after": 0.75,
        "teacher_accuracy_after": None,
        "notes": ["half the run"],
    }
    (tmp_path / "curve.png").touch()
    assert result_lines(summary, tmp_path) == [
        "Held-out accuracy of the student: 25.0 % → 75.0 %",
        "Note: half the run",
        f"Curve: {tmp_path / 'curve.png'}",
        f"Run directory: {tmp_path}",
    ]


def test_the_result_of_a_collapsed_run_says_so_once(tmp_path: Path) -> None:
    sentence = "Collapsed: held-out accuracy fell from 0.62 (step 20) to 0.03 (step 40)."
    summary = {"accuracy_before": 0.0, "accuracy_after": 0.03, "collapsed": sentence, "notes": [sentence, "another"]}
    lines = result_lines(summary, tmp_path)
    assert lines[1:3] == [sentence, "Note: another"]
    assert "".join(lines).count("Collapsed") == 1


def test_why_something_is_awaited_is_redrawn_on_a_terminal_and_not_repeated_elsewhere() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=120, force_terminal=terminal, color_system=None)
        with Progress(console, 80) as progress:
            progress.status("Starting inference", detail="inference: vLLM loads the model")
            progress.status("Starting inference", detail="inference: it is warming up")
            progress.say("redis is ready.")
        assert ("it is warming up" in out.getvalue()) == terminal
        assert terminal or out.getvalue() == "Starting inference\nredis is ready.\n"
