"""`vpd recipes`: the recipes that ship with the project, by what stands at their heads.

The head of a recipe for a whole experiment is four comments: a sentence, what the paper reports, the hardware it needs,
and the command that runs it. Layers, and the small recipes of the built-in worlds, have a sentence alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.development import ROOT
from shared.errors import SettingsError

FOLDER = ROOT / "recipes"
_NOT_RUN = ("layers", "experiments")
_FIELD = re.compile(r"# (Paper|Hardware|Run): +(.+)")


@dataclass(frozen=True)
class Head:
    """What a recipe says about itself; "" where it does not."""

    about: str
    paper: str
    hardware: str
    command: str


def recipe_files(folder: Path = FOLDER) -> list[Path]:
    """The recipes that can be run, layers left out."""
    files = sorted(folder.rglob("*.toml"))
    return [file for file in files if file.relative_to(folder).parts[0] not in _NOT_RUN]


def head_of(file: Path) -> Head:
    """The comments at the head of a recipe."""
    comments: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line)
    fields = {found[1]: found[2] for found in map(_FIELD.match, comments) if found}
    sentence = " ".join(line.removeprefix("#").strip() for line in comments if not _FIELD.match(line))
    return Head(sentence, fields.get("Paper", ""), fields.get("Hardware", ""), fields.get("Run", ""))


def recipe_lines(words: Sequence[str] = (), folder: Path = FOLDER) -> list[str]:
    """A table of the recipes whose line holds all `words`. Raises SettingsError where none does."""
    rows = [("recipe", "hardware", "the paper's figure", "what it is")]
    for file in recipe_files(folder):
        head = head_of(file)
        row = (file.relative_to(folder.parent).as_posix(), head.hardware, head.paper, head.about)
        if all(word.lower() in " ".join(row).lower() for word in words):
            rows.append(row)
    if len(rows) == 1:
        raise SettingsError(f"No recipe in {folder} is about {' '.join(words)}; `vpd recipes` lists them all.")
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(f"{row[i]:{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
