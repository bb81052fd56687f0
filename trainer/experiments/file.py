"""The file of an experiment: which runs there are and what is drawn of them. TOML, strict.

title, figure, question         what is asked, and which figure or table of the paper it stands for
[settings]                      settings of every run, as in a recipe
[[conditions]]                  worlds or sources to compare in; each a chapter of the report
[[arms]]                        what is compared: algorithms, or variants of one
[[seeds]]                       repetitions
[search]                        learning rates to choose from, for every arm in every condition
[person]                        a scripted person who writes critiques
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.algorithm_settings import Positive, Strict
from shared.errors import SettingsError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,19}$")]
Table = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LearningRates = Annotated[tuple[Positive, ...], Field(min_length=1)]


class Person(Strict):
    """A scripted person."""

    rollouts_per_step: Annotated[int, Field(ge=0)]
    """Failed rollouts that get a critique in each step."""


class Condition(Strict):
    """A world or source in which all arms are compared."""

    name: Name = "main"
    label: str = ""
    """Heading in the report; empty: the name."""
    settings: Table = Field(default_factory=dict)
    person: Person | None = None
    """None: the experiment's."""


class Arm(Strict):
    """One of what is compared."""

    name: Name
    label: str = ""
    """Name in the report; empty: the name."""
    settings: Table = Field(default_factory=dict)
    conditions: tuple[Name, ...] | None = None
    """The conditions it is run in; None: all."""
    learning_rates: LearningRates | None = None
    """Rates of its own to choose from; None: the search's."""
    learning_rate_of: Name | None = None
    """Take the rate that was chosen for this other arm instead of searching."""
    person: Person | None = None
    """None: the condition's."""


class SeedRow(Strict):
    """One repetition."""

    seed: Seed
    variant: Name | None = None
    """Of the built-in model: builtin:WORLD becomes builtin:WORLD/VARIANT."""
    settings: Table = Field(default_factory=dict)


class Search(Strict):
    """How the learning rate of an arm is chosen: the best mean over seeds that the experiment proper does not use."""

    learning_rates: LearningRates
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    settings: Table = Field(default_factory=dict)
    """Beside those of the runs, such as fewer steps or another world."""
    metric: Literal["area", "final"] = "area"
    """area: under the held-out curve; final: accuracy after the last step."""


class Experiment(Strict):
    """The whole file."""

    title: str
    figure: str = ""
    """What of the paper it stands for."""
    question: str = ""
    """In plain words."""
    settings: Table = Field(default_factory=dict)
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1)] = (Condition(),)
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    seeds: Annotated[tuple[SeedRow, ...], Field(min_length=1)]
    search: Search | None = None
    person: Person | None = None
    panels: tuple[str, ...] = ()
    """Keys of metrics.jsonl's step records to draw beside the accuracy, such as e_step/margin."""
    teacher_curve: bool = False
    """Draw the teacher's held-out accuracy too, dashed."""

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        for what, names in (
            ("conditions", [c.name for c in self.conditions]),
            ("arms", [a.name for a in self.arms]),
            ("seeds", [str(s.seed) for s in self.seeds]),
        ):
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{what}: {repeated[0]} stands there twice, give each its own")
        for arm in self.arms:
            _require_known(f"arms.{arm.name}.conditions", arm.conditions or (), [c.name for c in self.conditions])
            self._check_rate(arm)
        return self

    def _check_rate(self, arm: Arm) -> None:
        if (arm.learning_rate_of or arm.learning_rates) and self.search is None:
            raise ValueError(f"arms.{arm.name}: learning rates are chosen by a search, but there is no [search]")
        if arm.learning_rate_of is None:
            return
        searched = [a.name for a in self.arms if a.learning_rate_of is None and a.name != arm.name]
        _require_known(f"arms.{arm.name}.learning_rate_of", [arm.learning_rate_of], searched)
        missing = [
            c.name for c in self.conditions_of(arm) if c not in self.conditions_of(self.arm(arm.learning_rate_of))
        ]
        if missing:
            raise ValueError(
                f"arms.{arm.name}.learning_rate_of: {arm.learning_rate_of} is not run in condition {missing[0]}"
            )

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def conditions_of(self, arm: Arm) -> list[Condition]:
        """The conditions an arm is run in."""
        return [c for c in self.conditions if arm.conditions is None or c.name in arm.conditions]


def read_experiment(file: Path) -> Experiment:
    """The experiment in `file`. Raises SettingsError, in one sentence, where it cannot be used."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"There is no experiment {file}; `vpd experiment list` names those there are.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The experiment {file} is not valid TOML: {error}.") from None
    except OSError as error:
        raise SettingsError(f"The experiment {file} cannot be read: {error.strerror}.") from None
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        sentences = "; ".join(_sentence(problem) for problem in error.errors(include_url=False))
        raise SettingsError(f"The experiment {file} cannot be used: {sentences}.") from None


def _require_known(where: str, names: Iterable[str], known: list[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{where}: there is no {unknown[0]}; there is {', '.join(known) or 'none'}")


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a key of an experiment"
    if problem["type"] == "missing":
        return f"{key} must be set"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{key}: {problem['msg']}, not {problem['input']!r}"
