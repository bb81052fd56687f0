"""Headless Chromium for the tests of the pages: nothing but this machine is reached, and nothing goes wrong unseen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from browser_support import Visitor
from playwright.sync_api import Browser, sync_playwright


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
    assert made.requests_abroad == [], "pages asked for what is not on this machine"
    assert made.unexpected() == [], "pages reported errors"
