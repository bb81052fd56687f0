"""docs/recipes.md: its commands dry-run, its recipes exist, its hours are those of the dry run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.dry_run.shapes import shape_of
from cli.dry_run.work import gpu_hours
from cli.main import app
from cli.recipes import head_of
from shared.load_settings import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
HOURS = [
    line for line in PAGE.partition("hours:begin")[2].partition("hours:end")[0].splitlines() if line.startswith("| `")
]


def mentioned() -> set[str]:
    """Recipes by their paths; braces stand for several."""
    found = set()
    for path in re.findall(r"recipes/[\w./{},-]+\.toml", PAGE):
        before, opening, rest = path.partition("{")
        inner, _, after = rest.partition("}")
        found |= {f"{before}{choice}{after}" for choice in inner.split(",")} if opening else {path}
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_dry_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command, comments=True)[1:]
    if arguments[:2] == ["config", "check"]:  # looks for the model and the data, which are not here
        arguments = ["up", *arguments[2:]]
    if arguments[0] == "up" and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.count("\n") >= 2


def test_every_recipe_of_the_page_exists_and_has_the_papers_figures() -> None:
    assert len(mentioned()) > 25
    for path in sorted(mentioned()):
        assert (ROOT / path).is_file(), path
    for row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE):
        if (cells := [cell.strip() for cell in row.strip("|").split("|")])[-1] in ("4", "8"):
            before, _, rest = cells[4].strip("`").partition("{")
            heads = [head_of(ROOT / f"{before}{m}.toml") for m in rest.partition("}")[0].split(",")]
            assert [head.paper.removesuffix(" %") for head in heads] == cells[1:4]
            assert {head.hardware for head in heads} == {f"{cells[5]} GPUs of 80 GB"}


def test_the_hours_are_those_of_the_dry_run() -> None:
    assert len(HOURS) >= 18
    for line in HOURS:
        recipe, *hours = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        settings = load_settings([ROOT / "recipes" / f"{recipe}.toml"], environ={})
        shape, _ = shape_of(settings.model.path)
        found = gpu_hours(settings, shape, checkpointing=settings.model.gradient_checkpointing)
        assert hours == [f"{h:.1f}" for h in (found.sampling, found.training, found.evaluation, found.total)]
