"""What the compose file must say for settings to reach their service."""

from __future__ import annotations

from pathlib import Path

import yaml

from shared.settings import CodeFeedbackSettings

COMPOSE = Path(__file__).parents[1] / "docker-compose.yml"


def test_every_setting_of_code_feedback_but_those_of_an_engine_reaches_its_container() -> None:
    """The service has no `.env` and, on purpose, no Docker engine."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    handed = set(services["code-feedback"]["environment"])
    names = [name for name in CodeFeedbackSettings.model_fields if not name.startswith("docker_")]
    assert {f"VPD_CODE_FEEDBACK__{name.upper()}" for name in names} <= handed
