"""Which trackers the settings name, and whether what they need is there."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.errors import SettingsError
from shared.settings import TrackingSettings
from trainer.trackers.base import Tracker


@dataclass(frozen=True)
class Chosen:
    """A tracker that the settings name. `to` says where it is: another place has been sent nothing."""

    name: str
    to: str
    make: Callable[[], Tracker]


def chosen_trackers(tracking: TrackingSettings) -> list[Chosen]:
    """Those that are set, in the order of the settings. Imports none of their packages."""
    project, trackio, mlflow = tracking.project, tracking.trackio, tracking.mlflow
    found = []
    if tracking.tensorboard:
        found.append(Chosen("tensorboard", "files", lambda: _class("tensorboard", "TensorBoard")()))
    if trackio is True:
        found.append(
            Chosen("trackio", f"{project} on this machine", lambda: _class("trackio", "TrackioDatabase")(project))
        )
    elif trackio:
        found.append(
            Chosen("trackio", f"{project} at {trackio}", lambda: _class("trackio", "TrackioServer")(trackio, project))
        )
    if tracking.wandb:
        found.append(Chosen("wandb", project, lambda: _class("wandb", "WandB")(project)))
    if mlflow:
        found.append(Chosen("mlflow", f"{project} at {mlflow}", lambda: _class("mlflow", "MLflow")(mlflow, project)))
    return found


def require_trackers(tracking: TrackingSettings) -> None:
    """Raise SettingsError with the fix where a tracker that is set lacks its package or its token."""
    for one in chosen_trackers(tracking):
        at_a_server = one.name == "trackio" and tracking.trackio is not True
        if not at_a_server and importlib.util.find_spec(one.name) is None:
            raise SettingsError(
                f"tracking.{one.name} is set, but the package {one.name} is missing: pip install 'vpd[{one.name}]'."
            )
        if at_a_server and not os.environ.get("TRACKIO_WRITE_TOKEN"):
            raise SettingsError(
                f"tracking.trackio is set to {tracking.trackio}, which takes no figures without its write token: set "
                "TRACKIO_WRITE_TOKEN to what the server printed when it started."
            )


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"trainer.trackers.{module}"), name)
