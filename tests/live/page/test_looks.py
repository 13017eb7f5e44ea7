"""What the page looks like and says to a screen reader: contrast, names, sizes, narrow screens."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.live.page.chromium import patient_expect
from tests.live.page.stub import Answer, Stub, token

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

expect = patient_expect()
pytestmark = pytest.mark.slow

# Each text on the page with its colour and the colour behind it, painted so that both are sRGB.
COLOURS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".unseen, template, noscript, [aria-disabled=true]")) continue;
    const behind = [];
    for (let one = element; one; one = one.parentElement)
      behind.unshift(getComputedStyle(one).backgroundColor);
    const colour = getComputedStyle(element).color;
    found.push([walker.currentNode.data.trim(), paint(...behind, colour), paint(...behind)]);
  }
  return found;
}"""


def luminance(colour: list[int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [part / 255 for part in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[int], two: list[int]) -> float:
    """Contrast as WCAG 2 defines it, from 1 to 21."""
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def fill(page: Page, stub: Stub) -> None:
    """Ask, so that every part of the page shows something, with every colour of the scale."""
    stub.answers["base"] = Answer([token(f" {nats}", nats) for nats in (0, 1, 2, 3, 4, 5, 6)])
    stub.answers["rag"].breaks = True
    page.get_by_role("button", name="Remove Ann Oakes").click()
    page.locator("#question").fill("Where?")
    page.locator("#question").press("Enter")
    expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")
    page.locator('.column[data-mode="experts"] .token').first.click()
    expect(page.locator("#inspector")).to_be_visible()
    expect(page.locator("#notice")).to_be_visible()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest, page: Page) -> str:
    """Each of the two colour schemes."""
    page.emulate_media(color_scheme=request.param, reduced_motion="reduce")
    return str(request.param)


def test_contrast(page: Page, stub: Stub, scheme: str) -> None:
    assert contrast([255, 255, 255], [0, 0, 0]) == pytest.approx(21)
    assert contrast([118, 118, 118], [255, 255, 255]) == pytest.approx(4.54, abs=0.01)
    fill(page, stub)
    colours = page.evaluate(COLOURS)
    texts = {text for text, _, _ in colours}
    assert {"Question", "6", "Lis", "Befu Gild", "0.80", "Undo", "Try again"} <= texts
    low = {
        text: round(ratio, 2)
        for text, colour, behind in colours
        if (ratio := contrast(colour, behind)) < 4.5
    }
    assert low == {}
    grounds = [luminance(behind) for text, _, behind in colours if text == "Question"]
    assert (grounds[0] > 0.5) == (scheme == "light")


def test_borders_and_marks_have_contrast(page: Page, stub: Stub, scheme: str) -> None:
    fill(page, stub)
    parts: list[list[Any]] = page.evaluate(
        """() => {
          const style = (selector, name) =>
            getComputedStyle(document.querySelector(selector)).getPropertyValue(name);
          const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          const paint = (colour) => {
            context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          const ground = paint(style(".ask", "background-color"));
          return [
            ["a field", paint(style("#question", "border-top-color")), ground],
            ["the underline", paint(style(".triggered", "text-decoration-color")), ground],
            ["a bar", paint(style(".bar span", "background-color")),
              paint(style(".bar", "background-color"))],
            ["the focus", paint(style(":root", "--accent")), ground],
          ];
        }"""
    )
    for name, one, two in parts:
        assert contrast(one, two) >= 3, f"{name} in {scheme}: {one} on {two}"


def test_everything_that_can_be_used_has_a_name_and_a_size(page: Page, stub: Stub) -> None:
    fill(page, stub)
    tree = page.locator("body").aria_snapshot()
    # A name stands in quotes behind the role.
    used = "button|textbox|searchbox|spinbutton|radio|listbox|option|region|dialog|navigation"
    lines = [line for line in tree.splitlines() if re.match(rf"\s*- ({used})\b", line)]
    assert len(lines) > 20
    assert [line for line in lines if '"' not in line and "/" not in line] == []
    for part in (
        'heading "GenPoE and DMoE, live" [level=1]',
        "banner",
        "main",
        'textbox "Question"',
        'group "Answered by"',
        'spinbutton "at most tokens"',
        'article "Answer (Experts)"',
        'listbox "Tokens of the answer (Experts)"',
        'option "Lis" [selected]',
        'region "At this token"',
        'region "Passages 2"',
        'searchbox "Show passages that contain"',
        'navigation "Pages of passages"',
        'button "Remove Cy Hart"',
        "status",
    ):
        assert f"- {part}" in tree, f"{part} is not in\n{tree}"
    small = page.locator("button:visible, input:visible").evaluate_all(
        """all => all.map(e => [e.textContent || e.id || e.value, e.closest("label") ?? e])
          .map(([name, e]) => [name, e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 23.5).map(([name]) => name)"""
    )
    assert small == []


def test_headings_leave_no_level_out(page: Page, stub: Stub) -> None:
    fill(page, stub)
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(page: Page, stub: Stub, width: int) -> None:
    stub.add("Longname" * 30, "Longword" * 100)
    stub.answers["experts"] = Answer([token("x" * 300, 1.0, True, {"p" * 80: 1.0})])
    page.set_viewport_size({"width": width, "height": 800})
    page.reload()
    expect(page.locator(".passage-list li")).to_have_count(4)
    fill(page, stub)
    page.locator(".passage-list .link").last.click()
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    dialog = page.locator("#passage-dialog").bounding_box()
    assert dialog
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= width


def test_columns_are_stacked_on_a_narrow_screen(page: Page, stub: Stub) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    fill(page, stub)
    boxes = [box.bounding_box() for box in page.locator(".column").all()]
    tops = [box["y"] for box in boxes if box]
    assert tops == sorted(set(tops))
    assert len({box["x"] for box in boxes if box}) == 1
    # What is known of the token is on the screen together with the token.
    for part in (page.locator('[aria-selected="true"]'), page.locator("#inspector")):
        box = part.bounding_box()
        assert box
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 800


@pytest.mark.parametrize(("motion", "names"), [("reduce", "none"), ("no-preference", "appear")])
def test_nothing_moves_for_those_who_do_not_want_it(
    page: Page, stub: Stub, motion: Any, names: str
) -> None:
    page.emulate_media(reduced_motion=motion)
    fill(page, stub)
    assert page.locator(".token").first.evaluate("e => getComputedStyle(e).animationName") == names
    durations = page.evaluate(
        "[...document.querySelectorAll('*')].map(e => getComputedStyle(e).transitionDuration)"
    )
    assert (set(durations) == {"0s"}) == (motion == "reduce")


def test_the_page_works_behind_a_prefix(browser: Browser, stub: Stub) -> None:
    page = browser.new_page()
    asked = []

    def forward(route: Any) -> None:
        path = route.request.url.removeprefix("http://proxy.test/lab/")
        asked.append(path)
        route.fulfill(response=route.fetch(url=f"{stub.address}{path}"))

    page.route("http://proxy.test/**", forward)
    page.goto("http://proxy.test/lab/")
    expect(page.locator(".passage-list li")).to_have_count(3)
    expect(page.locator(".mode")).to_have_count(4)
    assert {"", "static/page.js", "static/page.css", "v1/models"} <= set(asked)
    page.close()
