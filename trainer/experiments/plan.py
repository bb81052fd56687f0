"""From an experiment's file to its runs: names, settings, and which search decides a run's learning rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.load_settings import resolve_settings
from shared.settings import Settings
from shared.settings_layers import Layer
from trainer.experiments.file import Arm, Condition, Experiment, SeedRow

BUILTIN = "builtin:"
Cell = tuple[str, str]
"""Condition and arm, by name."""


@dataclass(frozen=True)
class Run:
    """One run: `name` is its directory's. A run of a search has its `rate`; one whose rate a search chooses has
    `rate_from`, the cell searched."""

    name: str
    condition: str
    arm: str
    seed: int
    settings: Settings
    search: bool = False
    rate: float | None = None
    rate_from: Cell | None = None
    critiques_per_step: int = 0

    @property
    def rollouts_per_step(self) -> int:
        return self.settings.rollout.prompts_per_step * self.settings.rollout.samples_per_prompt

    def at_rate(self, rate: float) -> Settings:
        """Its settings with the learning rate that was chosen."""
        algorithm = self.settings.algorithm.model_copy(update={"learning_rate": rate})
        return self.settings.model_copy(update={"algorithm": algorithm})


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment, searches first, below `directory`."""

    experiment: Experiment
    directory: Path
    runs: list[Run] = field(default_factory=list)

    def path(self, run: Run) -> Path:
        return self.directory / run.name

    def searched(self, cell: Cell) -> list[Run]:
        """The search runs that decide a cell's rate."""
        return [run for run in self.runs if run.search and (run.condition, run.arm) == cell]

    def of(self, condition: str, arm: str) -> list[Run]:
        """The runs proper of a cell, by seed."""
        return [run for run in self.runs if not run.search and (run.condition, run.arm) == (condition, arm)]


def make_plan(
    experiment: Experiment, directory: Path, *, origin: str, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Plan:
    """Every run with its settings, checked. `overrides` are "a.b=c", strongest; `only` names arms, None named is all.

    The environment does not count: the same file gives the same runs everywhere. Raises SettingsError.
    """
    if unknown := [name for name in only if name not in {arm.name for arm in experiment.arms}]:
        known = ", ".join(arm.name for arm in experiment.arms)
        raise SettingsError(f"--only: there is no arm {unknown[0]}; there is {known}.")
    maker = _Maker(experiment, directory, origin, overrides)
    wanted = [arm for arm in experiment.arms if not only or arm.name in only]
    searched = {arm.learning_rate_of or arm.name for arm in wanted}
    runs = [r for arm in experiment.arms if arm.name in searched for r in maker.search_runs(arm)]
    runs += [maker.run(condition, arm, seed) for condition, arm, seed in _cells(experiment, wanted)]
    if repeated := [name for name, count in Counter(run.name for run in runs).items() if count > 1]:
        raise SettingsError(f"Two runs would be named {repeated[0]}: give conditions and arms other names.")
    return Plan(experiment, directory, runs)


def _cells(experiment: Experiment, arms: Sequence[Arm]) -> list[tuple[Condition, Arm, SeedRow]]:
    """Seed by seed, so that an experiment that is stopped early has something of everything."""
    return [
        (condition, arm, seed)
        for seed in experiment.seeds
        for condition in experiment.conditions
        for arm in arms
        if condition in experiment.conditions_of(arm)
    ]


@dataclass(frozen=True)
class _Maker:
    experiment: Experiment
    directory: Path
    origin: str
    overrides: Sequence[str]

    def run(self, condition: Condition, arm: Arm, seed: SeedRow) -> Run:
        name = f"{condition.name}-{arm.name}-s{seed.seed}"
        layers = [self._layer(seed.settings, f"seed {seed.seed}")]
        searched = self.experiment.search is not None
        return Run(
            name,
            condition.name,
            arm.name,
            seed.seed,
            _variant(self._settings(name, condition, arm, layers, seed.seed), seed.variant),
            rate_from=(condition.name, arm.learning_rate_of or arm.name) if searched else None,
            critiques_per_step=self._critiques(condition, arm),
        )

    def search_runs(self, arm: Arm) -> list[Run]:
        search = self.experiment.search
        if search is None or arm.learning_rate_of is not None:
            return []
        return [
            self._search_run(condition, arm, rate, seed)
            for condition in self.experiment.conditions_of(arm)
            for rate in arm.learning_rates or search.learning_rates
            for seed in search.seeds
        ]

    def _search_run(self, condition: Condition, arm: Arm, rate: float, seed: int) -> Run:
        assert self.experiment.search is not None
        name = f"search-{condition.name}-{arm.name}-lr{_spelled(rate)}-s{seed}"
        layers = [
            self._layer(self.experiment.search.settings, "search"),
            self._layer({"algorithm": {"learning_rate": rate}}, "search"),
        ]
        settings = self._settings(name, condition, arm, layers, seed)
        return Run(
            name,
            condition.name,
            arm.name,
            seed,
            settings,
            search=True,
            rate=rate,
            critiques_per_step=self._critiques(condition, arm),
        )

    def _settings(self, name: str, condition: Condition, arm: Arm, layers: Sequence[Layer], seed: int) -> Settings:
        layers = [
            self._layer(self.experiment.settings, "settings"),
            self._layer(condition.settings, f"condition {condition.name}"),
            self._layer(arm.settings, f"arm {arm.name}"),
            *layers,
        ]
        identity = [f"run.name={name}", f"run.dir={self.directory}", f"run.seed={seed}"]
        return resolve_settings(layers, [*self.overrides, *identity], {}).settings

    def _layer(self, table: Mapping[str, Any], where: str) -> Layer:
        return Layer(dict(table), f"{where} of {self.origin}")

    def _critiques(self, condition: Condition, arm: Arm) -> int:
        person = arm.person or condition.person or self.experiment.person
        return 0 if person is None else person.rollouts_per_step


def _variant(settings: Settings, variant: str | None) -> Settings:
    path = settings.model.path
    if variant is None:
        return settings
    if not path.startswith(BUILTIN) or "/" in path:
        raise SettingsError(
            f"seeds: variant {variant} is one of a built-in model, but model.path is {path}; set model.path in the "
            "seed's settings instead."
        )
    return settings.model_copy(update={"model": settings.model.model_copy(update={"path": f"{path}/{variant}"})})


def _spelled(rate: float) -> str:
    """1e-3, 2_5e-4: as a directory may be called."""
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.').replace('.', '_')}e{int(exponent)}"
