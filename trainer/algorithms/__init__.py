"""Algorithms: one small file each. `make` picks the one the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.algorithm_settings import AlgorithmSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.grpo import GRPO, ReshapedGRPO, ReweightedGRPO
from trainer.algorithms.sdpo import SDPO
from trainer.algorithms.vpd import VPD

__all__ = ["Algorithm", "Metrics", "Tools", "make"]

_ALGORITHMS: dict[str, Callable[[Any, Tools], Algorithm]] = {
    "vpd": VPD,
    "vpd_grpo": VPD,
    "sdpo": SDPO,
    "sdpo_grpo": SDPO,
    "grpo": GRPO,
    "reshaped_grpo": ReshapedGRPO,
    "reweighted_grpo": ReweightedGRPO,
}


def make(settings: AlgorithmSettings, tools: Tools) -> Algorithm:
    """The algorithm that the settings' `name` says."""
    return _ALGORITHMS[settings.name](settings, tools)
