"""The page about the worlds states what their models' records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.tasks import WORLDS
from trainer.tasks.pretrain import SEEDS, directory_of

PAGE = (Path(__file__).parents[3] / "docs" / "worlds.md").read_text()


@pytest.mark.parametrize("variant", SEEDS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_page_has_the_figures_and_the_digest_of_every_model(world: str, variant: str) -> None:
    record = json.loads((directory_of(world, variant) / "training.json").read_text())
    prior = record["prior"]
    figures = [prior["student_accuracy"], prior.get("teacher_accuracy"), prior.get("shown_accuracy")]
    shown = " | ".join("" if figure is None else f"{figure:.3f}" for figure in figures)
    name = f"{world}/{variant}".rstrip("/")
    assert f"| `{name}` | {record['parameters']:,} | {shown} | `{record['sha256'][:16]}` |" in PAGE
