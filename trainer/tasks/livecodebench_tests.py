"""The tests of a LiveCodeBench row: cells of the official file, or what stands in a question's text.

A private cell is JSON, or base64 of zlib of a pickle of that JSON. Nothing is unpickled: a pickle that is one string
is read as a list of instructions, and any other is refused; a decompressor stops at `MAX_CELL_BYTES`.
"""

from __future__ import annotations

import base64
import json
import pickletools
import re
import zlib
from dataclasses import dataclass
from typing import Any

import pydantic_core

MAX_CELL_BYTES = 256 * 2**20
"""Tests of one question, decompressed."""
_STRINGS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
_METHOD = re.compile(r"class Solution\b.*?\bdef +(?P<name>\w+) *\((?P<parameters>.*?)\) *(?:->|:)", re.DOTALL)
_PARAMETER = re.compile(r"(?:^|,)\s*(\w+)\s*:")
_EXAMPLE = re.compile(r"^Input:?[ \n]+(?P<input>.+?)\s*^Output:?[ \n]+(?P<output>[^\n]+)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One test; `functional` ones have JSON: an argument a line, and what is returned."""

    input: str
    output: str
    functional: bool

    @property
    def bytes(self) -> int:
        """Size, in bytes."""
        return len(self.input.encode(errors="surrogatepass")) + len(self.output.encode(errors="surrogatepass"))


def read_cell(cell: str) -> list[Case]:
    """The tests of a public or private cell. Raises ValueError, with a phrase, for what is no such cell."""
    text = cell if cell.lstrip().startswith("[") else _string_of_pickle(_decompressed(cell))
    try:
        found = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"holds no JSON ({error})") from None
    if not isinstance(found, list):
        raise ValueError("holds no list of tests")
    return [_case(entry, number) for number, entry in enumerate(found)]


def _case(entry: Any, number: int) -> Case:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("input", "output")):
        raise ValueError(f"has no texts `input` and `output` in test {number}")
    if entry.get("testtype") not in ("stdin", "functional"):
        raise ValueError(f"has a test {number} whose `testtype` is neither stdin nor functional")
    return Case(entry["input"], entry["output"], entry["testtype"] == "functional")


def _decompressed(cell: str) -> bytes:
    try:
        packed = base64.b64decode(cell, validate=True)
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(packed, MAX_CELL_BYTES)
    except (ValueError, zlib.error):
        raise ValueError("is neither JSON nor base64 of compressed tests") from None
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise ValueError(f"is cut off, or larger than {MAX_CELL_BYTES // 2**20} MiB when decompressed")
    return data


def _string_of_pickle(data: bytes) -> str:
    """The string that a pickle holds."""
    found: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(data):
            if code.name in _STRINGS:
                found.append(str(argument))
            elif code.name not in _HARMLESS:
                raise ValueError(code.name)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"holds a pickle that is not one string ({str(error)[:60]})") from None
    if len(found) != 1:
        raise ValueError("holds a pickle that is not one string")
    return found[0]


def method_name(starter_code: str) -> str | None:
    """The method of `class Solution` that is to be written."""
    found = _METHOD.search(starter_code)
    return found["name"] if found else None


def printed_examples(question: str, starter_code: str) -> list[Case]:
    """The examples that LeetCode prints, `Input: nums = [1,2], k = 3` and `Output: 4`, as far as they can be read."""
    found = _METHOD.search(starter_code)
    names = _PARAMETER.findall(found["parameters"]) if found else []
    cases = []
    for example in _EXAMPLE.finditer(question):
        arguments = _arguments(example["input"], names)
        if arguments is not None and _is_json(example["output"].strip()):
            cases.append(Case("\n".join(arguments), example["output"].strip(), functional=True))
    return cases


def _arguments(text: str, names: list[str]) -> list[str] | None:
    """JSON of each of the arguments `a = 1, b = [2]`; None if they are not these or no JSON."""
    pattern = r"\s*,\s*".join(rf"{re.escape(name)}\s*=\s*(.+?)" for name in names)
    found = re.fullmatch(pattern, text.strip(), re.DOTALL) if names else None
    values = [" ".join(value.split("\n")) for value in found.groups()] if found else []
    return values if values and all(map(_is_json, values)) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
