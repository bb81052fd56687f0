"""Arguments that several commands take, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shared.errors import SettingsError

Recipes = Annotated[
    list[Path] | None,
    typer.Option("--recipe", "-r", metavar="FILE", help="TOML file with settings; may be repeated, later files win."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, like run.steps=40; may be repeated."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or its name below `run.dir`.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of lines.")]


def resolve(recipes: list[Path] | None, overrides: list[str] | None) -> Any:
    """The settings and where each came from. Raises SettingsError."""
    from shared.load_settings import resolve_settings

    return resolve_settings(recipes or (), overrides or ())


def settings_of(recipes: list[Path] | None, overrides: list[str] | None) -> Any:
    """The settings. Raises SettingsError."""
    return resolve(recipes, overrides).settings


def run_directory(run: str, recipes: list[Path] | None, overrides: list[str] | None) -> Path:
    """The directory of a run that is named by its path or by its name. Raises SettingsError."""
    below = Path(settings_of(recipes, overrides).run.dir)
    for path in (Path(run), below / run):
        if (path / "run.json").is_file():
            return path
    names = ", ".join(sorted(file.parent.name for file in below.glob("*/run.json"))) or "none"
    raise SettingsError(
        f"There is no run {run}: name its directory, or one of the runs in {below} ({names}; --set run.dir=DIRECTORY "
        "looks elsewhere)."
    )
