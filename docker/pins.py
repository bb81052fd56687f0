"""Print pins of ./pyproject.toml, one a line: `core` for every process, `build` for the backend, or an extra's name.

Runs in image builds, where the project is not yet installed: it needs nothing but the standard library.
"""

import re
import sys
import tomllib
from pathlib import Path


def pins(part: str) -> list[str]:
    document = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    if part == "core":
        return list(document["project"]["dependencies"])
    if part == "build":
        return list(document["build-system"]["requires"])
    pinned = []
    for pin in document["project"]["optional-dependencies"][part]:
        # An extra may stand for another one of this project.
        other = re.fullmatch(r"vpd\[(\w+)\]", pin)
        pinned += pins(other[1]) if other else [pin]
    return pinned


if __name__ == "__main__":
    print("\n".join(pins(sys.argv[1])))
