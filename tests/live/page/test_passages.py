"""The list of passages in a browser: pages, filter, adding, removing, undoing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.live.page.chromium import patient_expect
from tests.live.page.stub import Answer, Stub, passage_id

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect = patient_expect()
pytestmark = pytest.mark.slow

TITLES = ".passage-list .link"


@pytest.fixture
def many(stub: Stub, page: Page) -> Stub:
    """A server with 3 + 222 passages, every 20th about a swimmer; the page shows them."""
    for i in range(222):
        kind = "Swimmer" if i % 20 == 0 else "Baker"
        stub.add(f"{kind} {i}", f"The {kind.lower()} {i} lived in town {i}.")
    page.reload()
    expect(page.locator("#passages-total")).to_have_text("225")
    return stub


def add(page: Page, title: str, text: str) -> None:
    """Add a passage with the keyboard."""
    page.locator("#add").press("Enter")
    expect(page.locator("#add-title")).to_be_focused()
    page.keyboard.insert_text(title)
    page.keyboard.press("Tab")
    page.keyboard.insert_text(text)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")


def test_pages_forth_and_back(page: Page, many: Stub) -> None:
    every = [passage["title"] for passage in many.passages.values()]
    expect(page.locator(TITLES)).to_have_text(every[:10])
    expect(page.locator("#previous")).to_have_attribute("aria-disabled", "true")
    for number in range(2, 24):
        page.locator("#next").press("Enter")
        expect(page.locator("#page-number")).to_have_text(f"page {number}")
    expect(page.locator(TITLES)).to_have_text(every[220:])
    expect(page.locator("#next")).to_have_attribute("aria-disabled", "true")
    page.locator("#next").press("Enter")  # does nothing
    page.locator("#previous").press("Enter")
    expect(page.locator(TITLES)).to_have_text(every[210:220])


def test_a_filter_looks_through_all_passages(page: Page, many: Stub) -> None:
    page.locator("#filter").fill("SWIMMER")
    found = [f"Swimmer {i}" for i in range(0, 222, 20)]
    expect(page.locator(TITLES)).to_have_text(found[:10])
    page.locator("#next").press("Enter")
    expect(page.locator(TITLES)).to_have_text(found[10:])
    expect(page.locator("#next")).to_have_attribute("aria-disabled", "true")
    page.locator("#previous").press("Enter")
    expect(page.locator(TITLES)).to_have_text(found[:10])
    page.locator("#filter").fill("in town 221.")
    expect(page.locator(TITLES)).to_have_text(["Baker 221"])
    page.locator("#filter").fill("nobody")
    expect(page.locator("#passages-none")).to_have_text("No passage contains this.")
    expect(page.locator("#announcer")).to_have_text("No passage contains this.")
    page.locator("#filter").fill("")
    expect(page.locator(TITLES)).to_have_count(10)


def test_exactly_ten_matches_are_one_page(page: Page, many: Stub) -> None:
    for title in ("Swimmer 0", "Swimmer 20"):
        del many.passages[passage_id(title, f"The {title.lower()} lived in town {title[8:]}.")]
    page.locator("#filter").fill("swimmer")
    expect(page.locator(TITLES).first).to_have_text("Swimmer 40")
    expect(page.locator(TITLES)).to_have_count(10)
    expect(page.locator("#next")).to_have_attribute("aria-disabled", "true")


def test_add_open_and_add_again(page: Page, stub: Stub) -> None:
    add(page, "Di Moss", "Di Moss keeps a tiger.")
    expect(page.locator("#add-dialog")).to_be_hidden()
    expect(page.locator("#add")).to_be_focused()
    expect(page.locator("#notice-text")).to_have_text("Added “Di Moss”.")
    expect(page.locator(TITLES)).to_have_count(4)
    page.locator("#notice-action").press("Enter")
    expect(page.locator("#passage-dialog-text")).to_have_text("Di Moss keeps a tiger.")
    expect(page.locator("#passage-dialog-id")).to_have_text(
        passage_id("Di Moss", "Di Moss keeps a tiger.")
    )
    page.keyboard.press("Escape")
    add(page, "Di Moss", "Di Moss keeps a tiger.")
    expect(page.locator("#notice-text")).to_have_text("“Di Moss” was there already.")
    assert len(stub.passages) == 4


def test_a_passage_that_is_refused_stays_in_the_dialog(page: Page, stub: Stub) -> None:
    stub.failures["/passages"] = (413, "text must have at most 8000 characters, got 9000", {})
    add(page, "Long", "word " * 20)
    expect(page.locator("#add-error")).to_have_text(
        "The server did not accept this: text must have at most 8000 characters, got 9000."
    )
    expect(page.locator("#add-text")).to_have_value("word " * 20)
    page.locator("#add-cancel").click()
    expect(page.locator("#add-dialog")).to_be_hidden()
    assert len(stub.passages) == 3


def test_remove_and_undo(page: Page, stub: Stub) -> None:
    before = dict(stub.passages)
    for name in ("Ann Oakes", "Cy Hart"):
        page.get_by_role("button", name=f"Remove {name}").press("Enter")
        expect(page.locator("#notice-text")).to_have_text(f"Removed “{name}”.")
        expect(page.locator("#notice-action")).to_be_focused()
    expect(page.locator(TITLES)).to_have_text(["Befu Gild"])
    assert len(stub.passages) == 1
    page.keyboard.press("Enter")
    expect(page.locator("#notice-text")).to_have_text("Removed “Ann Oakes”.")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator(TITLES)).to_have_count(3)
    assert stub.passages == before
    expect(page.locator("#passages-title")).to_be_focused()


def test_undo_after_adding_removes_nothing_else(page: Page, stub: Stub) -> None:
    page.get_by_role("button", name="Remove Ann Oakes").click()
    expect(page.locator("#notice-action")).to_have_text("Undo")
    add(page, "Di Moss", "Di Moss keeps a tiger.")
    expect(page.locator("#notice-action")).to_have_text("Open")
    page.get_by_role("button", name="Remove Di Moss").click()
    expect(page.locator("#notice-text")).to_have_text("Removed “Di Moss”.")
    page.locator("#notice-action").click()
    expect(page.locator("#notice-text")).to_have_text("Removed “Ann Oakes”.")
    page.locator("#notice-action").click()
    expect(page.locator(TITLES)).to_have_count(4)


def test_the_last_passage_of_a_page_is_removed(page: Page, stub: Stub) -> None:
    for i in range(8):
        stub.add(f"Baker {i}", "A baker.")
    page.reload()
    page.locator("#next").click()
    expect(page.locator(TITLES)).to_have_text(["Baker 7"])
    page.get_by_role("button", name="Remove Baker 7").click()
    expect(page.locator(TITLES)).to_have_count(10)
    expect(page.locator("#page-number")).to_have_text("page 1")


def test_the_passage_before_a_page_was_removed_by_somebody_else(page: Page, many: Stub) -> None:
    tenth = list(many.passages)[9]
    page.locator("#next").click()
    expect(page.locator("#page-number")).to_have_text("page 2")
    del many.passages[tenth]
    page.locator(".remove").first.click()
    expect(page.locator("#page-number")).to_have_text("page 1")
    expect(page.locator("#passages-error")).to_be_hidden()


def test_failures_are_said_and_leave_the_list(page: Page, stub: Stub) -> None:
    name = next(iter(stub.passages))
    stub.failures[f"/passages/{name}"] = (429, "busy", {"Retry-After": "1"})
    page.get_by_role("button", name="Remove Ann Oakes").click()
    expect(page.locator("#passages-error")).to_have_text(
        "“Ann Oakes” was not removed. The server is busy."
    )
    expect(page.locator(TITLES)).to_have_count(3)
    page.get_by_role("button", name="Remove Ann Oakes").click()
    expect(page.locator("#passages-error")).to_be_hidden()
    expect(page.locator(TITLES)).to_have_count(2)


def test_no_passages_yet(page: Page, stub: Stub) -> None:
    stub.passages.clear()
    page.reload()
    expect(page.locator("#passages-none")).to_contain_text("There are no passages yet.")


def test_a_passage_is_text_whatever_it_says(page: Page, stub: Stub) -> None:
    evil = "<img src=x onerror=\"document.title='broken'\"><script>alert(1)</script><b>bold</b>"
    add(page, evil, evil)
    expect(page.locator("#notice-text")).to_have_text(f"Added “{evil}”.")
    expect(page.locator(TITLES).nth(3)).to_have_text(evil)
    expect(page.locator(".passage-list p").nth(3)).to_have_text(evil)
    page.locator(TITLES).nth(3).click()
    expect(page.locator("#passage-dialog-title")).to_have_text(evil)
    expect(page.locator("#passage-dialog-text")).to_have_text(evil)
    assert page.locator("body img, body script, body b").count() == 0
    assert page.title() == "GenPoE and DMoE, live"


def test_a_removed_passage_is_not_used_by_the_next_question(page: Page, stub: Stub) -> None:
    stub.answers["experts"] = Answer([], [])
    page.get_by_role("button", name="Remove Befu Gild").click()
    page.locator("#question").fill("Where?")
    page.locator("#question").press("Enter")
    expect(page.locator('.column[data-mode="experts"] .state')).to_contain_text("0 tokens")
    expect(page.locator('.column[data-mode="experts"] .used')).to_be_hidden()
