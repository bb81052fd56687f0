"""The learning curve is a PNG whatever the records hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer import curve

STEP = {"kind": "step", "step": 0, "success_rate": 0.25}
EVALUATION = {"kind": "evaluation", "step": 0, "student_accuracy": 0.1, "teacher_accuracy": None}


@pytest.mark.parametrize("records", [[], [STEP], [EVALUATION], [STEP, {**STEP, "success_rate": None}, EVALUATION]])
def test_a_picture_is_drawn(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    curve.draw(records, tmp_path / "curve.png", title="a run")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curve.png").stat().st_size > 5_000
