"""Algorithms: one small file each. `make` picks the one the settings name."""

from __future__ import annotations

from shared.settings import GRPOSettings, SDPOSettings, VPDSettings
from trainer.algorithms.base import Algorithm, Metrics, Tools
from trainer.algorithms.grpo import GRPO
from trainer.algorithms.sdpo import SDPO
from trainer.algorithms.vpd import VPD

__all__ = ["Algorithm", "Metrics", "Tools", "make"]


def make(settings: VPDSettings | SDPOSettings | GRPOSettings, tools: Tools) -> Algorithm:
    """The algorithm that the settings' `name` says."""
    match settings:
        case VPDSettings():
            return VPD(settings, tools)
        case SDPOSettings():
            return SDPO(settings, tools)
        case GRPOSettings():
            return GRPO(settings, tools)
