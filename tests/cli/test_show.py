"""`vpd config show` prints a recipe; the settings table in the docs is the code's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.development import ROOT
from cli.show import settings_as_json, settings_as_toml, with_settings_table
from shared.errors import DataError
from shared.load_settings import resolve_settings

CHOSEN = [
    "run.steps=3",
    "feedback.sources.human=none",
    "feedback.sources.lint.url=http://127.0.0.1:9",
    "algorithm.name=sdpo",
    'teacher_prompt.closing=quote " back \\ tab \t del \x7f and ünï 😀',
    "learner.threads=2",
]


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_what_is_shown_is_a_recipe_for_the_same_settings(tmp_path: Path, suffix: str) -> None:
    resolved = resolve_settings([], CHOSEN, {})
    recipe = tmp_path / f"shown.{suffix}"
    recipe.write_text(settings_as_toml(resolved) if suffix == "toml" else settings_as_json(resolved))
    assert resolve_settings([recipe], [], {}).settings == resolved.settings


def test_each_value_that_is_no_default_says_where_it_is_from_and_no_secret_is_shown() -> None:
    shown = settings_as_toml(resolve_settings([], ["run.steps=3"], {"VPD_RUN__SEED": "7", "VPD_API_KEY": "hush"}))
    assert "steps = 3  # --set run.steps\n" in shown
    assert "seed = 7  # VPD_RUN__SEED\n" in shown
    assert "hush" not in shown
    assert "# VPD_API_KEY is set, and not shown." in shown


@pytest.mark.parametrize("file", ["README.md", "docs/settings.md"])
def test_the_settings_tables_in_the_docs_are_up_to_date(file: str) -> None:
    document = (ROOT / file).read_text(encoding="utf-8")
    assert with_settings_table(document) == document, "run `./vpd config docs`"


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="settings:begin"):
        with_settings_table("# Nothing here")
