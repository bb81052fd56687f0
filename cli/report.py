"""`vpd report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path

from services.dashboard.report import html
from services.dashboard.runs import RunFiles
from shared.errors import InfrastructureError


def write_report(run: Path, out: Path | None) -> str:
    """Write the report of the run in directory `run`; returns a sentence. Raises InfrastructureError where it cannot
    be written, DataError where the directory holds no run."""
    file = out or run / "report.html"
    try:
        file.write_text(html(RunFiles(run)), encoding="utf-8")
    except OSError as error:
        raise InfrastructureError(f"{file} cannot be written: {error.strerror or error}.") from error
    return f"{file} is written: open it in a browser."
