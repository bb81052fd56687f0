"""Where a model's files are. Loading them is the business of the engine and the trainer; nothing here needs torch."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from shared.errors import SettingsError

BUILTIN = "builtin:"


def resolve_model(path: str) -> Path | str:
    """The directory of `path`, or `path` itself when it is a hub id ("owner/name").

    "builtin:WORLD" is the model that ships with a world, "builtin:WORLD/VARIANT" one that differs in its pre-training
    seed. Raises SettingsError when there is no such model.
    """
    if path.startswith(BUILTIN):
        return _builtin(path.removeprefix(BUILTIN))
    directory = Path(path).expanduser()
    if directory.is_dir():
        return _checked(directory)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", path) and not directory.exists():
        return path
    raise SettingsError(f"model.path: there is no model directory {path}; give a directory, a hub id or builtin:NAME.")


def _builtin(name: str) -> Path:
    spec = importlib.util.find_spec("trainer")
    roots = [Path(folder) / "tasks" for folder in (spec.submodule_search_locations or ())] if spec else []
    directories = sorted(d for root in roots for d in root.glob("*/model*") if (d / "config.json").is_file())
    shipped = {_name(directory): directory for directory in directories}
    if name in shipped:
        return shipped[name]
    known = ", ".join(f"builtin:{one}" for one in shipped) or "none in this installation"
    raise SettingsError(f"model.path: there is no model builtin:{name}; known are: {known}.")


def _name(directory: Path) -> str:
    """`WORLD/model` is WORLD, `WORLD/model_VARIANT` is WORLD/VARIANT."""
    variant = directory.name.removeprefix("model").removeprefix("_")
    return f"{directory.parent.name}/{variant}" if variant else directory.parent.name


def _checked(directory: Path) -> Path:
    if not (directory / "config.json").is_file():
        raise SettingsError(f"model.path: {directory} has no config.json; it is no Hugging Face model directory.")
    return directory
