"""What both pages stand on: the key, requests and streams of `api.js`, the theme; and what these tests notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from browser_support import Visitor, accessibility_problems
from fastapi import Header
from fastapi.responses import StreamingResponse
from playwright.sync_api import Browser, Page, expect
from starlette.middleware import Middleware

from services.web.page import StaticPage
from shared.problems import Problem
from shared.service import create_service
from shared.settings import Settings

pytestmark = pytest.mark.browser
REFUSED = "status of 40[13]"


@pytest.fixture
def url(visitor: Visitor) -> Iterator[str]:
    page = Middleware(StaticPage, at="/", folder=Path(__file__).parent / "page_of_tests")
    app = create_service("paged", Settings(api_key="right"), page=page)

    @app.get("/v1/greeting")
    async def greeting() -> str:
        return "hello"

    @app.get("/v1/broken")
    async def broken() -> str:
        raise Problem(409, "Conflict", "It is taken: take another.")

    @app.get("/v1/events")
    async def events(last_event_id: str = Header(default="0")) -> StreamingResponse:
        """Two events, and then the connection ends."""

        async def two() -> AsyncIterator[str]:
            for number in (int(last_event_id) + 1, int(last_event_id) + 2):
                yield f": a comment\r\nid: {number}\r\nevent: step\r\ndata: first line\r\ndata: é{number}\r\n\r\n"

        return StreamingResponse(two(), media_type="text/event-stream")

    with visitor.at(app) as url:
        yield url + "/"


def ask(page: Page, path: str) -> None:
    # Not awaited: the page may have to ask for a key first.
    page.evaluate("path => { window.ask(path); }", path)


def test_the_key_of_the_fragment_is_taken_out_of_the_address_and_kept_for_the_tab(visitor: Visitor, url: str) -> None:
    page = visitor.open(url + "#key=right&run=demo")
    assert page.url == url + "#run=demo"
    page.reload()
    ask(page, "v1/greeting")
    expect(page.locator("#answer")).to_have_text('"hello"')


def test_a_page_without_a_key_asks_for_it_until_it_is_the_right_one(visitor: Visitor, url: str) -> None:
    visitor.expect_error(REFUSED)
    page = visitor.open(url)
    ask(page, "v1/greeting")
    key = page.get_by_label("Key", exact=True)
    key.fill("wrong")
    key.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Send the stack's key")
    assert accessibility_problems(page) == []
    key.fill("right")
    key.press("Enter")
    expect(page.locator("#answer")).to_have_text('"hello"')
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_problem_document_is_one_sentence(visitor: Visitor, url: str) -> None:
    visitor.expect_error("status of 409")
    page = visitor.open(url + "#key=right")
    ask(page, "v1/broken")
    expect(page.locator("#answer")).to_have_text("409: It is taken: take another.")


def test_a_stream_goes_on_after_its_last_event_when_the_connection_ends(visitor: Visitor, url: str) -> None:
    page = visitor.open(url + "#key=right")
    page.evaluate("() => { window.listen('v1/events'); }")
    lines = [f"step {number}: first line\né{number}" for number in range(1, 5)]
    expect(page.locator("#events li").nth(3)).to_be_visible()
    assert page.locator("#events li").all_text_contents()[:4] == lines


def test_the_theme_is_the_system_s_until_one_is_chosen_and_then_stays(visitor: Visitor, url: str) -> None:
    page = visitor.open(url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme").click()
    light = page.evaluate(ground)
    page.reload()
    assert page.evaluate(ground) == light != dark


def test_what_a_page_must_not_do_is_noticed(chromium: Browser, url: str) -> None:
    visitor = Visitor(chromium)
    page = visitor.open(url)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script, Object.assign(new Image(), { src: "https://example.org/a.png" }));
            setTimeout(() => { throw new Error("thrown"); });
        }"""
    )
    abroad = visitor.context().new_page()
    abroad.goto(url)
    with pytest.raises(Exception, match="ERR_FAILED"):
        abroad.goto("http://example.org/")
    visitor.close()
    assert visitor.requests_abroad == ["http://example.org/"]
    for error in ("script-src 'self'", "img-src 'self' data:", "thrown"):
        assert any(error in found for found in visitor.unexpected()), visitor.errors
