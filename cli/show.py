"""`vpd config`: the resolved settings as TOML with the origin of each value, and the settings table in the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.load_settings import Resolved, public_settings, secret_environment
from shared.settings import Settings
from shared.settings_tree import settings_table

_BEGIN, _END = "<!-- settings:begin -->", "<!-- settings:end -->"


def settings_as_toml(resolved: Resolved) -> str:
    """A recipe that gives the same settings again, but for secrets, which are named and never shown."""
    lines = list(_table(public_settings(resolved.settings), resolved.origins))
    lines += [f"# {name} is set, and not shown." for name in secret_environment(resolved.settings)]
    return "\n".join(lines).strip() + "\n"


def changed_lines(resolved: Resolved) -> list[str]:
    """`key = value  # origin` of each setting that is not at its default, the algorithm's being its own."""
    settings = resolved.settings
    usual = Settings().model_copy(update={"algorithm": type(settings.algorithm)()})
    before = dict(_flat(public_settings(usual)))
    now = dict(_flat(public_settings(settings)))
    lines = [
        f"{key} = {_value(value)}" + (f"  # {resolved.origins[key]}" if key in resolved.origins else "")
        for key, value in now.items()
        if key == "algorithm.name" or before.get(key, ...) != value
    ]
    return lines + [f"# {name} is set, and not shown." for name in secret_environment(settings)]


def settings_as_json(resolved: Resolved) -> str:
    """The same as JSON, without origins."""
    return json.dumps(public_settings(resolved.settings), indent=2)


def with_settings_table(document: str) -> str:
    """The document with the table between its markers made anew. Raises `DataError` if it has no markers."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise DataError(f"The document has no {_BEGIN} and {_END}.")
    return f"{before}{_BEGIN}\n\n{settings_table()}\n{_END}{after}"


def write_settings_table(file: Path) -> None:
    """Make the table in a Markdown file anew. Raises `DataError` if it has no markers or cannot be read."""
    try:
        file.write_text(with_settings_table(file.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}.") from None


def _table(table: Mapping[str, Any], origins: Mapping[str, str], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Values first, then sub-tables, as TOML wants it."""
    values = {name: value for name, value in table.items() if not isinstance(value, dict)}
    if path and values:
        yield f"\n[{'.'.join(path)}]"
    for name, value in values.items():
        origin = origins.get(".".join((*path, name)))
        yield f"{name} = {_value(value)}" + (f"  # {origin}" if origin else "")
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _table(value, origins, (*path, name))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
