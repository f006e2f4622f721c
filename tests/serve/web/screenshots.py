"""Pictures of the page at an endpoint that serves: python -m tests.serve.web.screenshots ORIGIN -o DIR"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tests.serve.web.browser import Visit, chromium

DESK = {"viewport": {"width": 1180, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


def playground(page: Any, prompt: str) -> None:
    """Ask, and wait for both answers."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Ask both").click()
    page.locator(".verdict").wait_for(timeout=120_000)
    page.evaluate("document.activeElement.blur()")


def pictures(origin: str, folder: Path, prompt: str) -> None:
    """``page-*.png`` in ``folder``: both views, on a desk by day and on a phone by night."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, options, scheme in (("desk", DESK, "light"), ("phone", PHONE, "dark")):
            tab = Visit(browser.new_context(color_scheme=scheme, **options), origin)
            page = tab.open()
            playground(page, prompt)
            page.screenshot(path=folder / f"page-{name}.png", full_page=True)
            page.get_by_role("link", name="Experiments").click()
            page.wait_for_load_state("domcontentloaded")
            page.locator(".report, .placeholder").first.wait_for()
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"page-experiments-{name}.png", full_page=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("origin")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--prompt", default="What is the sentiment of this text? Answer with one word.\nA joy."
    )
    given = parser.parse_args()
    pictures(given.origin.rstrip("/"), given.output, given.prompt)
