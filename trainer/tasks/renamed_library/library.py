"""The library a run meets: every function renamed to one of its rare synonyms, with helpful errors for old names.

`Library.source` is the Python module the code-feedback service puts beside a candidate as `lib.py`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from trainer.tasks.renamed_library.concepts import CONCEPTS, Concept


@dataclass(frozen=True)
class Library:
    """Which synonym is the real name of each concept; `choice` holds an index 1-4 into its names, in their order."""

    choice: tuple[int, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Concept]:
        """The functions the module has, by their real names."""
        return {c.names[i]: c for c, i in zip(CONCEPTS, self.choice, strict=True)}

    @cached_property
    def renamed(self) -> Mapping[str, str]:
        """Names the module does not have -> what the function is called now."""
        real = {c: name for name, c in self.by_name.items()}
        return {name: real[c] for c in CONCEPTS for name in c.names if name != real[c]}

    def real(self, concept: Concept) -> str:
        """The name this library gives to a concept."""
        return concept.names[self.choice[CONCEPTS.index(concept)]]

    def missing(self, name: str) -> str:
        """What the module's AttributeError says about a name it does not have."""
        hint = f", it was renamed to '{self.renamed[name]}'" if name in self.renamed else ""
        return f"module 'lib' has no attribute '{name}'{hint}"

    @cached_property
    def source(self) -> str:
        """The module as Python source."""
        functions = "\n\n\n".join(
            f"def {name}(x, k):\n    return {concept.expression}" for name, concept in self.by_name.items()
        )
        entries = "\n".join(f'    "{old}": "{new}",' for old, new in self.renamed.items())
        return _MODULE.replace("FUNCTIONS", functions).replace("ENTRIES", entries)


_MODULE = '''"""Integer functions of two arguments."""

from math import gcd


FUNCTIONS


_renamed = {
ENTRIES
}


def __getattr__(name):
    hint = f", it was renamed to '{_renamed[name]}'" if name in _renamed else ""
    raise AttributeError(f"module 'lib' has no attribute '{name}'{hint}")
'''


def draw_library(seed: str) -> Library:
    """A library in which each name is a synonym drawn with equal chances. Equal seeds give equal libraries."""
    draw = random.Random(f"library:{seed}")
    return Library(tuple(draw.randint(1, 4) for _ in CONCEPTS))


def world_library(world_seed: int) -> Library:
    """The library of the runs with this `tasks.world_seed`."""
    return draw_library(f"world:{world_seed}")
