"""`vpd data check`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import write
from cli_support import only_sentence, vpd
from tiny_model import make_tiny_model

from cli.data import MAX_SHOWN, main
from shared.settings import Settings


def problem(number: int) -> dict[str, Any]:
    return {"problem": f"What is {number} + 1?", "answer": str(number + 1)}


def check(source: str, *, with_model: bool = False, show: int = 0, **sections: Any) -> int:
    tree = {"tasks": {"source": source}, **sections}
    return main(Settings.model_validate(tree), with_model=with_model, as_json=True, show=show)


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_rows_are_tasks_left_out_or_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.jsonl", *(problem(i) for i in range(20)), problem(0), "{", {"answer": "1"})
    assert check(f"math:{path}") == 1
    (data,) = report(capsys)["data"]
    assert (data["rows"], data["tasks"], data["wrong"]) == (23, 20, 2)
    assert data["left_out"] == {"the same question as a row before": 1}


def test_wrong_rows_are_listed_up_to_a_limit_and_then_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", *["{"] * (MAX_SHOWN + 5), problem(1))
    done = vpd("data", "check", f"math:{path}", cwd=tmp_path)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert done.returncode == 1 and len(wrong) == MAX_SHOWN + 1
    assert f"{path}, line {MAX_SHOWN}: Invalid JSON" in wrong[-2] and wrong[-1] == "PROBLEM 5 more rows are wrong."


@pytest.mark.parametrize("held_out", [False, True])
def test_with_a_model_prompts_must_leave_room_for_the_response_or_a_run_leaves_out_those_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held_out: bool
) -> None:
    long = write(tmp_path / "long.jsonl", {"problem": "x" * 100, "answer": "1"}, problem(1))
    short = write(tmp_path / "short.jsonl", problem(2))
    source, other = (short, long) if held_out else (long, short)
    model = {"path": str(make_tiny_model(tmp_path / "model", context=256))}
    tasks = {"source": f"math:{source}", "held_out": f"math:{other}", "math": {"instruction": "Go."}}
    for max_tokens, too_long in ((148, 0), (149, 1)):
        # One token a byte: the problem, two line ends, the instruction, and the template's three.
        code = check("", with_model=True, tasks=tasks, model=model, rollout={"max_tokens": max_tokens})
        found = report(capsys)
        assert max(one["tokens"]["longest"] for one in found["tasks"]) == 100 + 5 + 3
        assert code == (too_long if held_out else 0)
        assert len(found["problems" if held_out else "notes"]) == too_long
        assert not found["notes" if held_out else "problems"]
    told = "Lower rollout.max_tokens, set tasks.max_prompt_chars" if held_out else "A run leaves them out."
    assert told in (found["problems"] + found["notes"])[0]


def test_where_no_training_prompt_leaves_room_that_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.jsonl", problem(1), problem(2), problem(3))
    model = {"path": str(make_tiny_model(tmp_path / "model", context=64))}
    assert check(f"math:{path}", with_model=True, model=model, rollout={"max_tokens": 64}) == 1
    found = report(capsys)
    assert "2 of 2 training prompts leave no room" in found["problems"][0] and not found["notes"]


def test_a_built_in_world_is_told_by_what_it_holds_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("builtin:rigid_math") == 0
    (held_out,) = report(capsys)["tasks"]
    assert (held_out["name"], held_out["tasks"], held_out["kinds"]) == ("held out", 300, {"math": 300})


def test_tasks_are_shown_as_the_model_gets_them(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", *(problem(i) for i in range(4)))
    done = vpd("data", "check", f"math:{path}", "--show", "1", cwd=tmp_path)
    assert done.returncode == 0
    assert "[user]\nWhat is " in done.stdout and '[reference]\n{"answer": ' in done.stdout
    assert done.stdout.count("[user]") == 1


def test_nothing_to_read_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = vpd("data", "check", "nowhere.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert only_sentence(done) == "tasks.source: Task file nowhere.jsonl cannot be read: No such file or directory."
