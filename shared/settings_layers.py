"""Where settings come from: recipes, the environment and `--set`, each read into a `Layer`.

Only syntax is looked at here (files, variable names, `key=value`); `load_settings.py` checks keys and merges.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import settings_tree as tree
from shared.errors import SettingsError

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


def recipe_layer(path: Path) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise SettingsError(f"There is no recipe {path}.") from None
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
    return Layer(value, f"recipe {path}")


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
