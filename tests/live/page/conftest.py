"""A headless Chromium, and the page in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.live.page.chromium import NO_CHROMIUM, SECONDS, chromium, playwright
from tests.live.page.stub import Answer, Stub, passage_id, serving, token

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module; asyncio cannot be used in the process meanwhile."""
    api = playwright()
    path = chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server with three modes and three passages."""
    stub = Stub()
    for name in ("Ann Oakes", "Befu Gild", "Cy Hart"):
        stub.add(name, f"{name} was born in Lisbon.")
    gild = passage_id("Befu Gild", "Befu Gild was born in Lisbon.")
    weights = {gild: 0.8, "p2": 0.2}
    stub.answers = {
        "base": Answer([token("A", 4.0), token(" city", 3.0), token(".", 0.0)]),
        "rag": Answer([token("In", 1.0), token(" Lisbon", 0.5)], [gild]),
        "experts": Answer(
            [token(" Lis", 2.5, True, weights), token("bon", 0.02, False, weights)], [gild, "p2"]
        ),
    }
    with serving(stub):
        yield stub


@pytest.fixture
def page(browser: Browser, stub: Stub) -> Iterator[Page]:
    """The page, opened, with its modes and passages. It must never fail by itself."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    # What the server refuses is written to the console, and is what some tests are about.
    page.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    page.goto(stub.address)
    page.locator(".mode").nth(3).wait_for()
    page.locator(".passage-list li").nth(2).wait_for()
    yield page
    context.close()
    assert errors == []
