"""Reads run directories (`runs/NAME/`) while they are written; needs no trainer, no torch and no service.

    RunFiles(path)      one run: identity, settings, summary, records, rollouts, sources
    RunsFolder(path)    the runs below a folder

What a run's files are is written in trainer/run_directory.py. Nothing here writes.
"""

from services.dashboard.runs.folder import RunsFolder
from services.dashboard.runs.queries import GroupPage, RolloutPage, RolloutQuery
from services.dashboard.runs.rows import Rollout, RolloutLine, Said
from services.dashboard.runs.run_files import Identity, RunFiles
from services.dashboard.runs.sources import SourceFigures

__all__ = [
    "GroupPage",
    "Identity",
    "Rollout",
    "RolloutLine",
    "RolloutPage",
    "RolloutQuery",
    "RunFiles",
    "RunsFolder",
    "Said",
    "SourceFigures",
]
