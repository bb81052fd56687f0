"""docs/tasks.md: every command in it runs, and prints what the document shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from benchmark_rows import exported, official, write
from cli_support import vpd

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
COMMANDS = [line.removeprefix("$ vpd ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands name."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    [own] = re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    (folder / "own.jsonl").write_text(own)
    problems = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    write(folder / "dapo.jsonl", *problems[:4])
    write(folder / "math500.jsonl", *problems[3:])
    write(folder / "sciknoweval" / "physics" / "train.jsonl", exported("a"), exported("b"))
    write(folder / "sciknoweval" / "physics" / "test.jsonl", exported("c"))
    write(folder / "test6.jsonl", *(official(f"q{i}") for i in range(3)))
    rows = [{"ask": f"Which, {i}?", "gold": "A"} for i in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(folder / "quiz.parquet")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, folder: Path) -> None:
    done = vpd(*shlex.split(command), cwd=folder)
    assert done.returncode == (1 if command.endswith("own.jsonl") else 0), done.stderr
    assert "tasks" in done.stdout and not done.stderr


def test_the_report_that_is_shown_is_the_one_that_is_printed(folder: Path) -> None:
    command, *shown = BLOCKS[0].splitlines()
    printed = vpd(*shlex.split(command.removeprefix("$ vpd ")), cwd=folder).stdout
    assert [line.rstrip() for line in printed.splitlines()] == shown
