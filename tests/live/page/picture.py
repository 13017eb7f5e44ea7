"""Makes docs/images/page-light.png and page-dark.png from a server that runs.

Usage: ``python -m tests.live.page.picture ADDRESS QUESTION FILTER``. What stands in the picture is
what the model of that server answers.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

from tests.live.page.chromium import chromium

IMAGES = Path(__file__).parents[3] / "docs" / "images"
WIDTH, HEIGHT = 1280, 1200  # pixels of the window; what is empty below the page is left out
MARGIN = 24  # pixels
MOST = 200_000  # bytes of a picture


def show(page: Page, address: str, question: str, words: str) -> None:
    """Ask the question in each mode, and choose the first token of the last answer."""
    page.goto(address)
    page.locator(".mode").nth(3).wait_for()
    page.locator("#filter").fill(words)
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    page.locator('#stop[aria-disabled="true"]').wait_for()
    failures = page.locator(".error:visible").all_text_contents()
    if failures:
        raise SystemExit(f"expected answers, got {failures}")
    page.locator('.column[data-mode="experts"] .token').first.click()
    page.locator("#question").blur()


def main(address: str, question: str, words: str) -> None:
    """Write both pictures."""
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium())
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT}, locale="en", reduced_motion="reduce"
            )
            page.set_default_timeout(300_000)
            page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
            show(page, address, question, words)
            page_height = page.locator("main").evaluate("e => e.getBoundingClientRect().bottom")
            clip: FloatRect = {"x": 0, "y": 0, "width": WIDTH, "height": page_height + MARGIN}
            picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
            path = IMAGES / f"page-{scheme}.png"
            picture.save(path, optimize=True)
            if path.stat().st_size > MOST:
                raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MOST}")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
