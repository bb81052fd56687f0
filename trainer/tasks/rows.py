"""Rows of a data set, one at a time: from JSONL and Parquet files, or from the Hugging Face hub.

A data set is named by the path of a file or folder, or by its name on the hub, `OWNER/NAME[:CONFIG]`; either may end
with `@SPLIT`. Files of a folder belong to the split that their name begins with, as on the hub. What a row means is
the business of the formats.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pydantic_core

from shared.errors import DataError, SettingsError

_SPLIT_OF_NAME = re.compile(r"(train|test|validation|valid|val|dev)(?:[-_.\d].*)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?(?::[\w.-]+)?")
_NEEDS_DATASETS = "needs libraries that are not installed; run: pip install 'vpd[data]'"


@dataclass(frozen=True)
class Row:
    """One row and where it stands: `file` is a path or a name on the hub, `place` is "line 3" or "row 3". `data` is the
    short name of the data set: of the file, the folder, or of what is on the hub."""

    data: str
    file: str
    place: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """The text of a field, without white space around it. Raises DataError where there is none."""
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, "has no text; give it some, or take the row out")
        return value.strip()

    def wrong(self, field: str, problem: str) -> DataError:
        """What to raise where a field is wrong."""
        return DataError(f"{self.file}, {self.place}, field {field}: {problem}.", field=field)


Rows = Iterator[Row | DataError]
"""Rows in their order, with the error of a line in place of a row that cannot be read."""


def open_splits(address: str, setting: str) -> dict[str, Callable[[], Rows]]:
    """The splits of a data set by name, each to be read once; a single one without a name is "".

    Raises SettingsError, naming `setting`, where there is no such data set or split, or a library is missing.
    """
    path, split = _path_and_split(address)
    splits = _splits_of_path(path, setting) if path.exists() else _splits_of_hub(str(path), setting)
    if split is None:
        return splits
    if split not in splits:
        there = ", ".join(name or "(one without a name)" for name in splits)
        raise SettingsError(f"{setting}: {path} has no split {split!r}; it has {there}.")
    return {split: splits[split]}


def _path_and_split(address: str) -> tuple[Path, str | None]:
    whole = Path(address).expanduser()
    name, at, split = address.rpartition("@")
    return (whole, None) if whole.exists() or not at else (Path(name).expanduser(), split)


# ---------------------------------------------------------------------------------------------------------- files


def _splits_of_path(path: Path, setting: str) -> dict[str, Callable[[], Rows]]:
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        return _splits_of_library(str(path), setting)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in _READERS)
    if not files:
        raise SettingsError(f"{setting}: {path} holds no file that ends with {' or '.join(_READERS)}.")
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        name = _SPLIT_OF_NAME.fullmatch(file.stem) if len(files) > 1 else None
        by_split[name[1] if name else ""].append(file)
    return {split: partial(_chained, path.stem, found) for split, found in by_split.items()}


def _chained(data: str, files: list[Path]) -> Rows:
    return chain.from_iterable(_READERS.get(file.suffix, _lines)(data, file) for file in files)


def _lines(data: str, file: Path) -> Rows:
    """A JSON object a line; blank lines are passed over."""
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield _row(data, file, number, line)
    except OSError as error:
        raise SettingsError(f"Task file {file} cannot be read: {error.strerror}.") from error


def _row(data: str, file: Path, number: int, line: bytes) -> Row | DataError:
    place = f"line {number}"
    try:
        # Stricter than the standard library's: no NaN, no half of a surrogate pair, no bytes that are not UTF-8.
        fields = pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError as error:
        reason = re.sub(r" at line 1 column (\d+)$", r" at character \1", str(error))
        return DataError(f"{file}, {place}: Invalid JSON: {reason}; write one JSON object a line, as UTF-8.")
    if not isinstance(fields, dict):
        return DataError(f"{file}, {place}: this is no JSON object; write one a line.")
    return Row(data, str(file), place, fields)


def _parquet(data: str, file: Path) -> Rows:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise SettingsError(f"Reading {file} {_NEEDS_DATASETS}.") from None
    try:
        with ParquetFile(file) as opened:
            batches = (batch.to_pylist() for batch in opened.iter_batches(batch_size=64))
            for number, fields in enumerate(chain.from_iterable(batches), 1):
                yield Row(data, str(file), f"row {number}", fields)
    except (OSError, ArrowException) as error:
        raise SettingsError(f"Task file {file} cannot be read as Parquet: {str(error).splitlines()[0]}.") from error


_READERS: dict[str, Callable[[str, Path], Rows]] = {".jsonl": _lines, ".parquet": _parquet}


# ------------------------------------------------------------------------------------------------------------ hub


def _splits_of_hub(name: str, setting: str) -> dict[str, Callable[[], Rows]]:
    # What ends like a file or begins like a path was meant as one.
    if Path(name).suffix in (*_READERS, ".json") or not _HUB_NAME.fullmatch(name):
        raise SettingsError(f"{setting}: Task file {name} cannot be read: No such file or directory.")
    return _splits_of_library(name, setting)


def _splits_of_library(name: str, setting: str) -> dict[str, Callable[[], Rows]]:
    try:
        import datasets
        import httpx
    except ImportError:
        raise SettingsError(f"{setting}: the data set {name} {_NEEDS_DATASETS}.") from None
    try:
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
        else:
            path, _, config = name.partition(":")
            found = datasets.load_dataset(path, config or None)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SettingsError(
            f"{setting}: there is no file or folder {name}, and the Hugging Face hub gives no data set of that name: "
            f"{reason}."
        ) from error
    splits = found if isinstance(found, dict) else {"": found}
    return {str(split): partial(_library_rows, name, rows) for split, rows in splits.items()}


def _library_rows(name: str, rows: Any) -> Rows:
    for number, fields in enumerate(rows, 1):
        yield Row(Path(name.partition(":")[0]).name, name, f"row {number}", fields)
