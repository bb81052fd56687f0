"""Headless Chromium for the tests of the pages."""

from browser_support import chromium, visitor

__all__ = ["chromium", "visitor"]
