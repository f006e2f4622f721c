"""A real browser for tests of the page, and what must hold of every visit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

MISSING = "no Chromium and Playwright to look at the page with: `make deps-test` installs the first"


@contextmanager
def chromium() -> Iterator[Any]:
    """The machine's Chromium, driven by Playwright. Skips the test where either is absent."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(MISSING)
    playwright = pytest.importorskip("playwright.sync_api", reason=MISSING)
    with playwright.sync_playwright() as driver:
        # Its sandbox cannot be had as root; it sees nothing here but our own page.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One tab at ``origin``: ``page`` is Playwright's. It notes what no visit may have."""

    def __init__(self, context: Any, origin: str) -> None:
        self.origin = origin
        self.page = context.new_page()
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._see)

    def open(self, place: str = "") -> Any:
        """The page, at one of its views."""
        self.page.goto(f"{self.origin}/{place}")
        self.page.wait_for_selector("h1")
        return self.page

    def _hear(self, message: Any) -> None:
        # Chromium writes down every refused request, too; the page tells people of those.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _see(self, request: Any) -> None:
        url = urlsplit(request.url)
        if f"{url.scheme}://{url.netloc}" != self.origin:
            self.strangers.append(request.url)
