"""docs/observability.md names the panels, alerts, settings and files that there are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import yaml

from shared.settings import TrackingSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "observability.md").read_text()


def test_every_panel_is_named_in_its_section() -> None:
    sections = runpy.run_path(str(ROOT / "deploy" / "observability" / "board.py"))["SECTIONS"]
    for title, panels in sections.items():
        (row,) = re.findall(rf"^\| {re.escape(title)} \| (.*?) \|", TEXT, re.MULTILINE)
        for panel in panels:
            name = panel.title.lower().removesuffix(" in training").removesuffix(" a second, p95").split(",")[0]
            assert name.removesuffix(" a second") in row.lower(), (title, panel.title)


def test_every_alert_is_named() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus" / "alerts.yml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| ([A-Z]\w+) \| ", TEXT, re.MULTILINE)[-len(alerts) :] == alerts


def test_every_setting_of_trackers_is_named_and_no_other() -> None:
    named = set(re.findall(r"tracking\.(?!json)(\w+)(?=[=`])", TEXT))
    assert named == set(TrackingSettings.model_fields)


def test_versions_to_install_are_the_pinned_ones() -> None:
    pins = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r"pip install '(\w+==[\d.]+)'", TEXT)
    assert wanted
    assert all(f'"{pin}"' in pins for pin in wanted)


def test_files_that_the_page_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
