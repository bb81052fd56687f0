"""docs/durability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "durability.md").read_text()


def named() -> list[tuple[str, str]]:
    """(file, test) pairs; a name without a file is in the file named before it."""
    found, file = [], ""
    for given, test in re.findall(r"`(tests/[\w/]+\.py)?::(test_\w+)`", TEXT):
        file = given or file
        found.append((file, test))
    return found


@pytest.mark.parametrize(("file", "test"), named())
def test_every_guarantee_names_a_test_that_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()


def test_the_guarantees_name_tests() -> None:
    assert len(named()) >= 15
    for folder in re.findall(r"`(tests/\w+/)`", TEXT):
        assert list((ROOT / folder).glob("test_*.py"))
