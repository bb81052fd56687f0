"""docs/evaluation.md: its commands run in their order, on runs that `vpd up` has made."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vpd_run import chosen, free_base_port, starting

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()
[BLOCK] = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
LINES = [re.sub(r"\s+#.*", "", line).split() for line in BLOCK.splitlines()]
TASKS = 40

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the runs `short` and `grpo`, of a model that succeeds at first in one attempt of nine."""
    directory = tmp_path_factory.mktemp("evaluated")
    with starting(directory) as start:
        for name in ("short", "grpo"):
            world = chosen(model__path="builtin:house_dialect", tasks__source="builtin:house_dialect")
            run = start(*world, *chosen(run__steps=1, evaluation__samples=2, evaluation__final_tasks=TASKS), name=name)
            output = run.wait()
            assert run.process.returncode == 0, output
        yield directory


def vpd_eval(runs: Path, *arguments: str) -> str:
    """Standard output of `vpd eval`, on ports of its own."""
    options = [*chosen(run__dir=runs, evaluation__final_tasks=TASKS), "--base-port", str(free_base_port())]
    line = [sys.executable, "-P", "-m", "cli.main", "eval", *arguments, *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_runs(runs: Path) -> None:
    assert len(LINES) == 5 and all(line[:2] == ["./vpd", "eval"] for line in LINES)
    vpd_eval(runs, "grpo")
    printed = [vpd_eval(runs, *line[2:]) for line in LINES]
    assert "avg@2" in printed[0] and "avg@4" in printed[1] and "pass@2" in printed[1] and "greedy" in printed[2]
    assert "builtin:renamed_library on 40 held-out tasks" in printed[3] and "grpo minus short" in printed[4]


def test_a_run_is_measured_as_it_measured_itself(runs: Path) -> None:
    """The same weights, tasks, sampling and seed: the same rollouts, and so the same figures."""
    summary = json.loads((runs / "short" / "summary.json").read_text())
    result = json.loads(vpd_eval(runs, "short", "--json"))
    assert result["samples"] == 2 and result["student"]["all"]["judged"] == 2 * TASKS
    assert 0 < summary["accuracy_after"] < 1
    assert result["student"]["all"]["avg"]["value"] == pytest.approx(summary["accuracy_after"])
    assert result["teacher"]["all"]["avg"]["value"] == pytest.approx(summary["teacher_accuracy_after"])
    assert result["teacher"]["all"]["informed"] > 0.5
