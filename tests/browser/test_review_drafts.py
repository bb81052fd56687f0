"""What is written on the review page survives reloads, crashes, lost leases and lost connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_support import Visitor
from playwright.sync_api import Page, expect
from review_support import a_desk, an_item, box, saved

pytestmark = pytest.mark.browser


def heartbeat(page: Page) -> None:
    """Wait for the next renewal of the lease."""
    with page.expect_response("**/heartbeat"):
        pass


def test_a_reload_keeps_the_task_and_each_keystroke(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        # Reloaded before the draft could reach the service.
        box(page).press_sequentially("not saved yet")
        page.reload()
        expect(page.locator("#attempt")).to_have_text("two")
        expect(box(page)).to_have_value("not saved yet")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#attempt")).to_have_text("one")
        assert [state["critique"]["text"] for state in desk.critiques()] == ["not saved yet"]


def test_a_tab_closed_without_a_network_loses_no_keystroke(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expect_error("ERR_INTERNET_DISCONNECTED")
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        page.context.set_offline(True)
        box(page).press_sequentially("the service never got this")
        page.close()
        page.context.set_offline(False)
        again = page.context.new_page()
        again.goto(desk.url + "#key=review")
        expect(again.locator("#attempt")).to_have_text("two")
        expect(box(again)).to_have_value("the service never got this")
        saved(again)


def test_a_crash_of_the_browser_loses_no_saved_draft(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        box(page).press_sequentially("written before the crash")
        saved(page)
        # The profile and all it stored are gone with it; no page can say good-bye.
        page.context.close()
        desk.clock.now += 301
        page = desk.review(visitor)
        expect(page.locator("#attempt")).to_have_text("two")
        expect(box(page)).to_have_value("written before the crash")


def test_a_tab_opened_after_a_crash_goes_on_with_the_task(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        box(page).press_sequentially("in the first tab")
        other = page.context.new_page()
        other.goto(desk.url + "#key=review")
        expect(other.locator("#attempt")).to_have_text("one")
        # A tab that is closed lets go of its task.
        page.close()
        again = other.context.new_page()
        again.goto(desk.url + "#key=review")
        expect(again.locator("#attempt")).to_have_text("two")
        expect(box(again)).to_have_value("in the first tab")


def test_who_lost_the_lease_keeps_the_draft_and_may_still_submit(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expect_error("status of 409")
    with a_desk(visitor, tmp_path, an_item(response="one"), lease_s=1.5) as desk:
        late = desk.review(visitor, "Ada")
        box(late).press_sequentially("slow but right")
        saved(late)
        heartbeat(late)
        # The lease ends, and another takes the task before it is renewed.
        late.context.set_offline(True)
        visitor.expect_error("ERR_INTERNET_DISCONNECTED")
        desk.clock.now += 301
        quick = desk.review(visitor, "Grace")
        expect(quick.locator("#attempt")).to_have_text("one")
        late.context.set_offline(False)
        expect(late.get_by_role("alert")).to_contain_text("somebody else took it")
        expect(box(late)).to_have_value("slow but right")
        late.keyboard.press("Control+Enter")
        expect(late.locator("#empty")).to_be_visible()
        box(quick).fill("quick")
        quick.keyboard.press("Control+Enter")
        expect(quick.locator("#empty")).to_be_visible()
        assert [state["critique"]["text"] for state in desk.critiques()] == ["slow but right", "quick"]


def test_a_lease_that_ended_is_renewed_where_nobody_took_the_task(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item(response="one"), lease_s=1.5) as desk:
        page = desk.review(visitor, "Ada")
        desk.clock.now += 301
        heartbeat(page)
        other = visitor.open(desk.url + "#key=review")
        other.get_by_label("Name").fill("Grace")
        other.keyboard.press("Enter")
        expect(other.locator("#empty")).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_lost_connection_loses_nothing(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expect_error("ERR_INTERNET_DISCONNECTED")
    with a_desk(visitor, tmp_path, an_item(response="one")) as desk:
        page = desk.review(visitor)
        page.context.set_offline(True)
        box(page).press_sequentially("without a network")
        expect(page.locator("#saved")).to_contain_text("Kept in this browser")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
        expect(box(page)).to_have_value("without a network")
        page.context.set_offline(False)
        saved(page)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        assert [state["critique"]["text"] for state in desk.critiques()] == ["without a network"]


def test_a_task_that_ended_elsewhere_can_be_left(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expect_error("status of 409")
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        claim_id = page.evaluate("sessionStorage.getItem('vpd-claim')")
        submitted = desk.api.post(f"/v1/review/claims/{claim_id}/submit", json={"text": "From elsewhere."})
        assert submitted.status_code == 201
        page.get_by_role("button", name="Later").click()
        expect(page.locator("#attempt")).to_have_text("one")
