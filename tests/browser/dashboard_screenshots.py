"""Pictures of the dashboard for the documentation, out of a real run:

./vpd up --set run.name=demo
PYTHONPATH=.:tests:tests/browser .venv/bin/python tests/browser/dashboard_screenshots.py runs/demo docs/images
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from browser_support import Visitor, screenshot
from playwright.sync_api import expect, sync_playwright
from serving import running

from services.dashboard.app import create_app
from services.dashboard.runs import RolloutQuery, RunFiles
from shared.settings import Settings

WIDTHS = {1280: 900, 390: 844}


def main(run: Path, images: Path) -> None:
    """dashboard-VIEW-THEME-WIDTH.png for each view, both themes, a desk and a phone."""
    images.mkdir(parents=True, exist_ok=True)
    failures = RunFiles(run).rollouts(RolloutQuery(sort="worst", limit=200)).items
    telling = min(failures, key=lambda line: line.lift_nats or 0.0)
    views = {"overview": "", "sources": "", "rollouts": "&sort=best", "rollout": f"&id={telling.trajectory_id}"}
    settings = Settings.model_validate({"run": {"dir": str(run.resolve().parent)}})
    with running(create_app(settings)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visitor = Visitor(browser)
        for theme in ("light", "dark"):
            for width, height in WIDTHS.items():
                for view, more in views.items():
                    tab = "rollouts" if view == "rollout" else view
                    context = visitor.context(color_scheme=theme, viewport={"width": width, "height": height})
                    page = context.new_page()
                    page.goto(f"{url}/#run={run.name}&tab={tab}{more}")
                    expect(page.locator(f"main[data-ready={view}]")).to_be_attached()
                    screenshot(page, images / f"dashboard-{view}-{theme}-{width}.png")
        visitor.close()
        assert visitor.unexpected() == [], visitor.unexpected()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
