"""docs/run-files.md names every field that a real run's files have, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from loop_stack import Judge, run, stack
from serving import running
from tiny_model import make_tiny_model

from trainer.ledger import Ledger

TEXT = (Path(__file__).parents[2] / "docs" / "run-files.md").read_text(encoding="utf-8")
Records = dict[str, list[dict[str, Any]]]


def documented(heading: str) -> list[str]:
    """The fields that the table below a heading names."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


class Failing(Judge):
    """A source that says of every rollout why it cannot judge it."""

    def _result(self, trajectory_id: str, text: str) -> dict[str, Any]:
        error = {"class": "data", "message": "no such kind", "retryable": False}
        given = {"trajectory_id": trajectory_id, "feedback_id": "none", "source": {"name": "failing", "kind": "rule"}}
        return {**given, "status": "error", "error": error}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Path]:
    """A run of VPD with a gate and a diagnosis; of its two sources one always fails."""
    root = tmp_path_factory.mktemp("run-files")
    model = make_tiny_model(root / "model", context=1024)
    with stack(root, model, redis_url) as services, running(Failing().app()) as failing_url:
        settings = services.settings(
            "done",
            run={"steps": 2},
            algorithm={"name": "vpd", "e_step": {"gate_drop": 0.5}},
            learner={"diagnose_every": 1},
            feedback={
                "sources": {
                    "judge": {"url": services.judge_url, "role": "both", "timeout_s": 1.0},
                    "failing": {"url": failing_url, "role": "critique"},
                }
            },
        )
        run(settings)
    yield root / "runs" / "done"


@pytest.fixture(scope="module")
def records(directory: Path) -> Records:
    """What each section of the page is about."""

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (directory / name).read_text().splitlines()]

    Ledger(directory / "ledger.jsonl").dropped(None, "group", step=2, reason="too old", returned=True)
    metrics, rows = lines("metrics.jsonl"), lines("trajectories/step_000001.jsonl")
    assert {r["kind"] for r in metrics} == {"step", "evaluation", "gate"}
    return {
        "`run.json`": [json.loads((directory / "run.json").read_text())],
        "`metrics.jsonl`, kind `step`": [r for r in metrics if r["kind"] == "step"],
        "`metrics.jsonl`, kinds `evaluation` and `gate`": [r for r in metrics if r["kind"] != "step"],
        "`timings.jsonl`": lines("timings.jsonl"),
        "`trajectories/`": rows,
        "Items of `feedback`": [said for row in rows for said in row["feedback"]],
        "`ledger.jsonl`": lines("ledger.jsonl"),
        "`summary.json`": [json.loads((directory / "summary.json").read_text())],
    }


def test_every_field_of_a_run_is_documented_and_every_documented_field_is_there(records: Records) -> None:
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE) == list(records)
    for heading, found in records.items():
        fields, names = {field for record in found for field in record}, documented(heading)
        assert [f for f in sorted(fields) if not any(fnmatchcase(f, name) for name in names)] == [], heading
        assert [name for name in names if not any(fnmatchcase(f, name) for f in fields)] == [], heading


def test_every_file_of_a_run_is_documented(directory: Path) -> None:
    table = TEXT.partition("| file | what |")[2].partition("\n\n")[0]
    names = [name.strip("/").partition("/")[0] for name in re.findall(r"`([^`]+)`", table)]
    left = [entry.name for entry in directory.iterdir() if not entry.name.startswith(".")]
    assert [name for name in left if name not in names] == [] and len(left) >= 11


def test_a_token_s_lift_and_end_are_there_for_each_token_of_a_row_with_a_teacher(records: Records) -> None:
    rows = records["`trajectories/`"]
    scored = [row for row in rows if row["token_lift"] is not None]
    assert scored and all(len(row["token_lift"]) == len(row["token_ends"]) == row["tokens"] for row in scored)
    assert all(row["token_ends"][-1] == len(row["response"]) for row in rows)
    told = [row for row in scored if row["feedback_in_prompt"]]
    assert told and all(row["feedback_in_prompt"] == ["judge"] for row in told)
    of_source = records["`metrics.jsonl`, kind `step`"][1]["source/judge/failure_lift_nats"]
    failures = [sum(row["token_lift"]) for row in told if row["success"] is False]
    assert of_source == pytest.approx(sum(failures) / len(failures), abs=0.01)
