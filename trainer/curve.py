"""The learning curve of a run as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(records: Sequence[dict[str, Any]], file: Path, *, title: str) -> None:
    """Held-out accuracy of student and teacher, and success in training, over rollouts' steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    evaluations = [r for r in records if r["kind"] == "evaluation"]
    steps = [r for r in records if r["kind"] == "step" and r.get("success_rate") is not None]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    axes.plot(
        [r["step"] + 1 for r in steps],
        [r["success_rate"] for r in steps],
        color="#c8ccd4",
        label="success in training",
    )
    for key, colour, label in (
        ("teacher_accuracy", "#d9822b", "teacher (told what was wrong), held-out"),
        ("student_accuracy", "#1f6feb", "student, held-out"),
    ):
        known = [r for r in evaluations if r.get(key) is not None]
        axes.plot([r["step"] for r in known], [r[key] for r in known], "o-", color=colour, label=label, markersize=4)
    axes.set(xlabel="training step", ylabel="accuracy", ylim=(-0.02, 1.02), title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
