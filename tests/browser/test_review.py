"""The review page, from the first task to the fate of a critique."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_support import Visitor
from playwright.sync_api import Route, expect
from review_support import a_desk, an_item, box, saved, world_items

pytestmark = pytest.mark.browser
EMPTY_POLL_MS = 3000


def test_claim_write_submit_and_next_need_the_keyboard_alone(visitor: Visitor, tmp_path: Path) -> None:
    items = world_items(2)
    with a_desk(visitor, tmp_path, *items) as desk:
        page = desk.review(visitor)
        expect(box(page)).to_be_focused()
        page.keyboard.type("lib has no double: it is gain.")
        page.keyboard.press("Escape")
        # Select the first line of the code with keys, and remark on it.
        page.keyboard.press("a")
        for key in ("ArrowDown", "Home", "Shift+End"):
            page.keyboard.press(key)
        page.keyboard.press("r")
        page.keyboard.type("Right.")
        page.keyboard.press("Escape")
        page.keyboard.press("2")
        page.keyboard.press("f")
        page.keyboard.type("# corrected\n")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#prompt")).to_contain_text(items[0].task.messages[-1].content)
        page.keyboard.press("c")
        page.keyboard.type("The second.")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#progress")).to_have_text("2 of 2 reviewed, 2 by you, 0 in review")
        first, second = desk.critiques()
    assert first["trajectory_id"] == items[1].trajectory_id
    assert first["critique"]["text"] == "lib has no double: it is gain."
    (span,) = first["critique"]["spans"]
    response = items[1].response.text
    assert (response[span["start"] : span["end"]], span["text"]) == ("import lib", "Right.")
    assert first["critique"]["verdict"] == "incorrect"
    assert first["critique"]["corrected_response"] == "# corrected\n" + response
    assert first["critique"]["author"] == "Ada Lovelace"
    assert (second["trajectory_id"], second["critique"]["text"]) == (items[0].trajectory_id, "The second.")


def test_two_browsers_never_get_one_task(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        first = desk.review(visitor, "Ada")
        second = desk.review(visitor, "Grace")
        third = visitor.open(desk.url + "#key=review")
        third.get_by_label("Name").fill("Edsger")
        third.keyboard.press("Enter")
        expect(first.locator("#attempt")).to_have_text("two")
        expect(second.locator("#attempt")).to_have_text("one")
        expect(third.locator("#empty")).to_be_visible()


def test_a_new_task_appears_by_itself_where_there_was_none(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path) as desk:
        page = visitor.open(desk.url + "#key=review")
        page.get_by_label("Name").fill("Ada")
        page.keyboard.press("Enter")
        expect(page.locator("#empty")).to_be_visible()
        desk.ask(an_item(response="at last"))
        expect(page.locator("#attempt")).to_have_text("at last")


def test_the_caret_is_in_the_box_when_a_task_comes_that_was_waited_for(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path) as desk:
        page = visitor.open(desk.url + "#key=review")
        page.get_by_label("Name").fill("Ada")
        page.keyboard.press("Enter")
        for number, words in enumerate(("fix x", "xxx")):
            expect(page.locator("#empty")).to_be_visible()
            desk.ask(an_item(f"demo.0.{number}.0"))
            expect(box(page)).to_be_focused()
            page.keyboard.type(words)
            page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        assert [state["critique"]["text"] for state in desk.critiques()] == ["fix x", "xxx"]


def test_who_goes_on_by_letters_finds_the_focus_outside_the_box_after_a_wait(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one")) as desk:
        page = desk.review(visitor)
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        expect(page.locator("#empty")).to_be_visible()
        desk.ask(an_item("demo.0.1.0", "two"))
        expect(page.locator("#attempt")).to_have_text("two")
        expect(box(page)).not_to_be_focused()


def test_later_puts_a_task_at_the_end_and_skip_away(visitor: Visitor, tmp_path: Path) -> None:
    items = [an_item(f"demo.0.{number}.0", text) for number, text in enumerate(("one", "two", "three"))]
    with a_desk(visitor, tmp_path, *items) as desk:
        page = desk.review(visitor)
        shown = page.locator("#attempt")
        expect(shown).to_have_text("three")
        page.keyboard.type("half a thought")
        page.keyboard.press("Escape")
        page.keyboard.press("l")
        expect(shown).to_have_text("two")
        page.keyboard.press("x")
        expect(shown).to_have_text("one")
        page.keyboard.press("x")
        expect(shown).to_have_text("three")
        expect(box(page)).to_have_value("half a thought")
        # What was written does not go with one key.
        page.keyboard.press("x")
        expect(page.get_by_role("alert")).to_contain_text("skip again")
        page.keyboard.press("x")
        expect(page.locator("#empty")).to_be_visible()
        assert desk.critiques() == []


def test_the_last_skip_can_be_taken_back_and_the_task_beside_it_comes_next(visitor: Visitor, tmp_path: Path) -> None:
    items = [an_item(f"demo.0.{number}.0", text) for number, text in enumerate(("one", "two"))]
    with a_desk(visitor, tmp_path, *items) as desk:
        page = desk.review(visitor)
        shown = page.locator("#attempt")
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        expect(shown).to_have_text("one")
        page.keyboard.press("c")
        page.keyboard.type("of one")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Undo skip")).to_be_visible()
        page.keyboard.press("u")
        expect(shown).to_have_text("two")
        expect(page.get_by_role("button", name="Undo skip")).to_be_hidden()
        expect(box(page)).to_have_value("")
        page.keyboard.press("c")
        page.keyboard.type("of two")
        page.keyboard.press("Control+Enter")
        expect(shown).to_have_text("one")
        expect(box(page)).to_have_value("of one")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        written = {state["trajectory_id"]: state["critique"]["text"] for state in desk.critiques()}
    assert written == {"demo.0.0.0": "of one", "demo.0.1.0": "of two"}


def test_a_task_that_was_taken_back_stays_as_it_is_when_the_page_would_have_looked_for_the_next(
    visitor: Visitor, tmp_path: Path
) -> None:
    with a_desk(visitor, tmp_path, an_item()) as desk:
        page = desk.review(visitor)
        page.clock.install()
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        expect(page.locator("#empty")).to_be_visible()
        page.get_by_role("button", name="Undo skip").click()
        box(page).fill("of one")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(2 * EMPTY_POLL_MS)
        # While the page looks for a task it submits nothing.
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        assert not any(url.endswith("/view") for url in asked), asked
        assert [state["critique"]["text"] for state in desk.critiques()] == ["of one"]


def test_a_page_that_is_busy_when_it_would_look_for_a_task_looks_later(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one")) as desk:
        page = desk.review(visitor)
        page.clock.install()
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        expect(page.locator("#empty")).to_be_visible()
        desk.api.post("/v1/review/claims", json={"reviewer": "grace"}).raise_for_status()
        visitor.expect_error("status of 409")
        on_their_way: list[Route] = []
        page.route("**/unskip", lambda route: on_their_way.append(route))
        with page.expect_request("**/unskip"):
            page.get_by_role("button", name="Undo skip").click()
        page.clock.run_for(2 * EMPTY_POLL_MS)
        on_their_way[0].continue_()
        expect(page.get_by_role("alert")).to_have_text("Somebody else took the skipped task.")
        desk.ask(an_item("demo.0.1.0", "two"))
        page.clock.run_for(2 * EMPTY_POLL_MS)
        expect(page.locator("#attempt")).to_have_text("two")


def test_a_skip_cannot_be_taken_back_once_somebody_else_has_the_task(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        page.keyboard.press("Escape")
        page.keyboard.press("x")
        expect(page.locator("#attempt")).to_have_text("one")
        desk.api.post("/v1/review/claims", json={"reviewer": "grace"}).raise_for_status()
        visitor.expect_error("status of 409")
        page.get_by_role("button", name="Undo skip").click()
        expect(page.get_by_role("alert")).to_have_text("Somebody else took the skipped task.")
        expect(page.locator("#attempt")).to_have_text("one")
        page.keyboard.press("u")
        expect(page.get_by_role("alert")).to_have_text("There is no skipped task to go back to.")


def test_a_task_that_could_not_be_shown_is_not_written_about_with_the_words_for_the_one_before(
    visitor: Visitor, tmp_path: Path
) -> None:
    with a_desk(visitor, tmp_path, an_item("demo.0.0.0", "one"), an_item("demo.0.1.0", "two")) as desk:
        page = desk.review(visitor)
        page.keyboard.type("of two")
        visitor.expect_error("status of 503")
        page.route("**/view", lambda route: route.fulfill(status=503, body="{}"), times=1)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#empty")).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(page.locator("#attempt")).to_have_text("one")
        expect(box(page)).to_have_value("")
        assert [state["trajectory_id"] for state in desk.critiques()] == ["demo.0.1.0"]


def test_a_blind_reviewer_sees_outcomes_and_machine_feedback_after_the_first_draft(
    visitor: Visitor, tmp_path: Path
) -> None:
    with a_desk(visitor, tmp_path, *world_items(1), blind=True) as desk:
        page = desk.review(visitor)
        expect(page.locator("#said")).to_contain_text("Hidden until your first draft is saved")
        expect(page.locator("#outcome")).to_be_hidden()
        expect(page.get_by_role("group", name="Compare with").get_by_role("button").first).to_have_text("1")
        box(page).press_sequentially("It calls double.")
        expect(page.locator("#said")).to_contain_text("AttributeError: module 'lib' has no attribute")
        expect(page.locator("#outcome")).to_have_text("failed")
        expect(page.get_by_role("group", name="Compare with").get_by_role("button").first).to_have_text("1 failed")
        # The box with the caret was not touched meanwhile.
        box(page).press_sequentially(" And so on.")
        expect(box(page)).to_have_value("It calls double. And so on.")


def test_a_critique_turns_to_used_or_stale_while_the_page_is_open(visitor: Visitor, tmp_path: Path) -> None:
    items = [an_item(f"demo.0.{number}.0", "text") for number in range(2)]
    with a_desk(visitor, tmp_path, *items) as desk:
        page = desk.review(visitor)
        fates = page.locator("#fate-list li")
        for text in ("the first", "the second"):
            box(page).fill(text)
            page.keyboard.press("Control+Enter")
            expect(fates.first).to_contain_text(text)
        expect(fates.first).to_contain_text("waits for a training step")
        for state, use in zip(
            desk.critiques(),
            (
                {"status": "used", "step": 41, "policy_version": 42},
                {"status": "stale", "step": 41, "reason": "Its rollouts are no longer kept."},
            ),
            strict=True,
        ):
            place = f"/v1/rollouts/{state['trajectory_id']}/critiques/{state['identifier']}/use"
            desk.api.post(place, json=use).raise_for_status()
        expect(fates.nth(1)).to_contain_text("used at step 41 by policy version 42")
        expect(fates.nth(0)).to_contain_text("stale: Its rollouts are no longer kept.")


def test_a_preview_shows_markdown_the_fix_and_what_the_teacher_reads(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item(response="x = 1\ny = 2\n")) as desk:
        page = desk.review(visitor)
        box(page).fill("Use **two** <b>letters</b>.")
        page.get_by_role("button", name="Suggest a fix").click()
        page.get_by_label("The response as it should be").fill("xx = 1\ny = 2\n")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#preview-text strong")).to_have_text("two")
        expect(page.locator("#preview-text")).to_contain_text("<b>letters</b>")
        expect(page.locator("#preview-fix ins")).to_have_text("+ xx = 1")
        expect(page.locator("#teacher-reads")).to_contain_text("A corrected response:\nxx = 1")


def test_an_empty_critique_is_not_submitted(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item()) as desk:
        page = desk.review(visitor)
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("alert")).to_contain_text("Write a critique, a remark or a fix first")
        assert desk.critiques() == []


def test_the_keys_are_shown_and_do_nothing_in_the_box(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item(response="one")) as desk:
        page = desk.review(visitor)
        page.keyboard.type("x l ?")
        expect(box(page)).to_have_value("x l ?")
        saved(page)
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("Submit and next, also in the boxes")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_link_that_names_a_run_shows_its_rollouts_alone(visitor: Visitor, tmp_path: Path) -> None:
    with a_desk(visitor, tmp_path, an_item(response="of the run demo")) as desk:
        other = visitor.open(desk.url + "#key=review&run=other")
        other.get_by_label("Name").fill("Ada")
        other.keyboard.press("Enter")
        expect(other.locator("#empty")).to_be_visible()
        expect(other.locator("#progress")).to_have_text("0 of 0 reviewed, 0 by you, 0 in review")
        page = visitor.open(desk.url + "#key=review&run=demo")
        page.get_by_label("Name").fill("Ada")
        page.keyboard.press("Enter")
        expect(page.locator("#attempt")).to_have_text("of the run demo")
