"""One stack for all chaos runs of a test process, and the table of what was done to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chaos_stack import Outcome, Stack, chaos_stack

ROW = "chaos"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Outcome]]:
    """A stack, and what a run in it comes to that nobody disturbs."""
    with chaos_stack(tmp_path_factory.mktemp("chaos")) as both:
        yield both


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = sorted((value, report.outcome) for report in reports for key, value in report.user_properties if key == ROW)
    if rows:
        terminalreporter.section("runs whose processes were killed")
    for row, outcome in rows:
        terminalreporter.line(f"{row}  {outcome}")
