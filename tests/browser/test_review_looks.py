"""How the review page looks: accessible, no wider than a phone. With `VPD_SCREENSHOTS=docs/images` in the environment
the pictures of the documentation are made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from browser_support import Visitor, accessibility_problems, screenshot, scrolls_sideways
from playwright.sync_api import expect
from review_support import a_desk, box, saved, world_items, world_remark

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_accessible_and_fits(visitor: Visitor, tmp_path: Path, theme: str, width: int) -> None:
    items = world_items(3)
    with a_desk(visitor, tmp_path, *items) as desk:
        page = desk.review(visitor, color_scheme=theme, viewport={"width": width, "height": 1000})
        box(page).fill(world_remark(items[2]))
        page.keyboard.press("Control+Enter")
        expect(page.locator("#fate-list li")).to_have_count(1)
        (state,) = desk.critiques()
        place = f"/v1/rollouts/{state['trajectory_id']}/critiques/{state['identifier']}/use"
        desk.api.post(place, json={"status": "used", "step": 12, "policy_version": 13}).raise_for_status()
        expect(page.locator("#fate-list")).to_contain_text("used at step 12")
        box(page).fill(world_remark(items[1]))
        page.keyboard.press("Escape")
        page.keyboard.press("a")
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "End", "ArrowLeft", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        page.keyboard.press("r")
        page.keyboard.type("The constant is right.")
        page.keyboard.press("Escape")
        page.keyboard.press("2")
        saved(page)
        expect(page.locator("#outcome")).to_be_visible()
        expect(page.locator("#sibling ins").first).to_be_visible()
        page.evaluate("scrollTo(0, 0)")
        assert accessibility_problems(page) == []
        assert not scrolls_sideways(page)
        if "VPD_SCREENSHOTS" in os.environ:
            screenshot(page, Path(os.environ["VPD_SCREENSHOTS"]) / f"review-{theme}-{width}.png")
        page.keyboard.press("?")
        assert accessibility_problems(page) == []
