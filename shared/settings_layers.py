"""Where settings come from: recipes, the environment and `--set`, each read into a `Layer`.

Only syntax is looked at here (files, variable names, `key=value`); `load_settings.py` checks keys and merges. A recipe
may stand on others, which it names first: `extends = ["../layers/models/qwen3-8b.toml"]`, relative to its own folder.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import settings_tree as tree
from shared.errors import SettingsError

EXTENDS = "extends"
"""Key of a recipe with the files it stands on."""
_NO_SETTINGS = ("VPD_COLLECTOR_NAME",)
"""Variables that say which process one is, and so differ where the settings are the same."""


@dataclass(frozen=True)
class Raw:
    """Text from a flag or the environment whose type depends on the setting it is for."""

    text: str

    def parsed(self) -> Any:
        try:
            document = tomllib.loads(f"value = {self.text}")
        except (ValueError, RecursionError):
            return self.text
        return document["value"] if document.keys() == {"value"} else self.text


@dataclass(frozen=True)
class Layer:
    """Values from one place. `spell` writes a key as that place does, for the messages."""

    value: dict[str, Any]
    origin: str
    environment: bool = False

    def spell(self, path: tree.Path) -> str:
        return tree.env_name(path) if self.environment else ".".join(path)


def recipe_layers(path: Path) -> list[Layer]:
    """A recipe, after those that it extends, in their order; later layers win. Raises SettingsError."""
    return list(_with_bases(path, above=()))


def _with_bases(path: Path, above: Sequence[Path]) -> Iterator[Layer]:
    if path in above:
        chain = " -> ".join(map(str, [*above[above.index(path) :], path]))
        raise SettingsError(f"The recipe {path} extends itself: {chain}.")
    value = _recipe_table(path, above)
    bases = value.pop(EXTENDS, [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise SettingsError(f"{EXTENDS} must be a list of file names, not {bases!r} (from recipe {path}).")
    for base in bases:
        yield from _with_bases(Path(os.path.normpath(path.parent / base)), (*above, path))
    yield Layer(value, f"recipe {path}")


def _recipe_table(path: Path, above: Sequence[Path]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        asked = f", which {above[-1]} extends" if above else ""
        raise SettingsError(f"There is no recipe {path}{asked}.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The recipe {path} is not valid TOML: {error}.") from None
    except json.JSONDecodeError as error:
        raise SettingsError(f"The recipe {path} is not valid JSON: {error}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The recipe {path} is not UTF-8 text.") from None
    except OSError as error:
        raise SettingsError(f"The recipe {path} cannot be read: {error.strerror}.") from None
    if not isinstance(value, dict):
        raise SettingsError(f"The recipe {path} must hold a table of settings.")
    return value


def environment_layers(environ: Mapping[str, str]) -> Iterator[Layer]:
    for name in sorted(environ):
        if name.upper().startswith("VPD_") and name not in _NO_SETTINGS and environ[name] != "":
            path = tuple(name[len("VPD_") :].lower().split("__"))
            yield Layer(_nest(path, Raw(environ[name])), name, environment=True)


def override_layer(override: str) -> Layer:
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise SettingsError(f"--set takes key=value, like run.steps=40, but was given {override!r}.")
    return Layer(_nest(path, Raw(text.strip())), f"--set {key.strip()}")


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path[1:]):
        value = {name: value}
    return {path[0]: value}
