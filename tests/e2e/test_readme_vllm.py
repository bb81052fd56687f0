"""The README's commands that need vLLM run as they are printed; the others are in `test_readme.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from readme_commands import shell, vpd_commands

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


def test_every_command_of_the_readme_that_needs_vllm_trains_with_it(readme_environment: dict[str, str]) -> None:
    lines = vpd_commands(vllm=True)
    assert len(lines) == 1
    assert "Held-out accuracy of the student" in shell(lines[0], readme_environment)
    run = Path(readme_environment["VPD_RUN__DIR"]) / "vllm"
    assert "vllm.entrypoints" in (run / "logs" / "inference.log").read_text()
