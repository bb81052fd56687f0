"""What the tests of both pages do with a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright
from serving import running

LOCAL = {"127.0.0.1", "localhost", "::1"}
WAIT_MS = 10_000
SEVERE = {"serious", "critical"}


class Visitor:
    """Opens pages in `browser`, and keeps what they did that they should not have done."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.requests_abroad: list[str] = []
        self.errors: list[str] = []
        self.expected: list[str] = []
        self._contexts: list[BrowserContext] = []

    def context(self, **options: Any) -> BrowserContext:
        """A browser profile of its own, with nothing stored; `options` are those of `Browser.new_context`."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        context.route(lambda url: not _is_local(url), self._refuse)
        # A breach of the policy is an error in the console as well.
        context.on("console", self._note)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self._contexts.append(context)
        return context

    def open(self, url: str, **options: Any) -> Page:
        """A page at `url` in a profile of its own."""
        page = self.context(**options).new_page()
        page.goto(url)
        return page

    def expect_error(self, pattern: str) -> None:
        """Errors in which the regular expression is found are the test's own doing, like
        `status of 401` for a request that is refused."""
        self.expected.append(pattern)

    def unexpected(self) -> list[str]:
        """The errors that no test expected."""
        return [error for error in self.errors if not any(re.search(pattern, error) for pattern in self.expected)]

    @contextmanager
    def at(self, app: Any) -> Iterator[str]:
        """Base URL of `app`, served for the length of the block. Pages are closed before it stops: one may still ask
        for its icon, or look for news, and would report that nobody answers."""
        with running(app) as url:
            try:
                yield url
            finally:
                self.close()

    def close(self) -> None:
        """Close every profile."""
        while self._contexts:
            self._contexts.pop().close()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _refuse(self, route: Route) -> None:
        self.requests_abroad.append(route.request.url)
        route.abort()


def accessibility_problems(page: Page) -> list[str]:
    """What axe-core finds on `page` that is serious or worse, a line for each place."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in SEVERE
        for node in violation["nodes"]
    ]


def screenshot(page: Page, path: Path) -> None:
    """The visible part of `page` as a PNG, reduced to 256 colours."""
    from PIL import Image

    page.screenshot(path=path, animations="disabled", caret="hide")
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname in LOCAL


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, one for each worker."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("The tests of the pages need Chromium: apt-get install chromium.", pytrace=False)
    with sync_playwright() as playwright:
        # In containers /dev/shm is small, and root has no sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Opens pages; at the end of the test it fails for every request that left the machine, every error in a console
    and every breach of the content security policy that the test did not expect."""
    made = Visitor(chromium)
    yield made
    made.close()
    assert made.requests_abroad == [], f"pages asked for what is not on this machine: {made.requests_abroad}"
    assert made.unexpected() == [], f"pages reported errors: {made.unexpected()}"
