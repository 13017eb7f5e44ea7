"""The page on the real server, with a tiny random model: both sides keep the contract."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from live.decoding import Batch, Spoken
from live.page import page_files
from tests.helpers.live import PASSAGES, QUESTION, reader_session
from tests.helpers.live_server import Running, running
from tests.helpers.tiny import make_backbone
from tests.live.page.chromium import patient_expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

expect = patient_expect()
pytestmark = pytest.mark.slow

KEY = "sesame"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    backbone = make_backbone(max_position_embeddings=1024)
    session = reader_session(backbone, tmp_path_factory.mktemp("live"))
    session.add(PASSAGES)
    with running(session, api_key=KEY) as one:
        yield one


@pytest.fixture
def served(browser: Browser, server: Running) -> Iterator[Page]:
    """The page of the real server, which has got its key."""
    context = browser.new_context(locale="en")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".mode")).to_have_count(4)
    yield page
    context.close()
    assert errors == []


def test_the_server_sends_the_files_under_a_strict_policy(server: Running) -> None:
    for path, file in page_files().items():
        status, body, headers = server.ask("GET", path)
        assert status == 200
        assert body == file.body
        assert headers["content-type"] == file.media_type
        policy = headers["content-security-policy"]
        assert {"script-src 'self'", "style-src 'self'"} <= set(policy.split("; "))
        assert "unsafe" not in policy


def test_a_question_has_three_answers_with_their_provenance(served: Page, server: Running) -> None:
    served.locator("#max-tokens").fill("6")
    served.locator("#question").fill(QUESTION)
    served.locator("#question").press("Enter")
    expect(served.locator("#stop")).to_have_attribute("aria-disabled", "true")
    for mode in ("base", "rag", "experts"):
        column = served.locator(f'.column[data-mode="{mode}"]')
        expect(column.locator(".error")).to_be_hidden()
        whole = server.ask(
            "POST",
            "/v1/chat/completions",
            {"model": mode, "max_tokens": 6, "messages": [{"role": "user", "content": QUESTION}]},
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )[1]
        assert column.locator(".plain").text_content() == whole["choices"][0]["message"]["content"]
        titles = column.locator(".token").evaluate_all("all => all.map(e => e.title)")
        knowledge = whole["knowledge"]["tokens"]
        assert len(titles) == len(knowledge) > 0
        for title, token in zip(titles, knowledge, strict=True):
            assert title.startswith(f"{token['uncertainty']:.2f} nats")
            assert ("router" in title) == token["triggered"]
            assert all(expert["title"] in title for expert in token["experts"])
        assert bool(knowledge[0]["experts"]) == (mode == "experts")
    used = served.locator('.column[data-mode="rag"] .used button')
    assert "Tova Blick" in used.all_text_contents()
    served.locator('.column[data-mode="experts"] .token').first.click()
    served.locator("#inspector-experts button").first.click()
    expect(served.locator("#passage-dialog-text")).to_contain_text("was born in")
    served.get_by_role("button", name="Close").click()
    expect(served.locator("#passage-dialog")).to_be_hidden()


def test_passages_come_and_go(served: Page, server: Running) -> None:
    before = len(server.session.passages)
    served.locator("#add").click()
    served.locator("#add-title").fill("Di Moss")
    served.locator("#add-text").fill("Di Moss keeps a <b>tiger</b>.")
    served.locator("#add-form .main-button").click()
    expect(served.locator("#passages-total")).to_have_text(str(before + 1))
    served.locator("#filter").fill("di moss")
    expect(served.locator(".passage-list p")).to_have_text(["Di Moss keeps a <b>tiger</b>."])
    served.get_by_role("button", name="Remove Di Moss").click()
    expect(served.locator("#passages-total")).to_have_text(str(before))
    served.locator("#notice-action").click()
    expect(served.locator("#passages-total")).to_have_text(str(before + 1))
    served.get_by_role("button", name="Remove Di Moss").click()
    expect(served.locator("#passages-none")).to_have_text("No passage contains this.")


def test_the_limits_of_the_server_are_told(served: Page) -> None:
    served.locator("#max-tokens").fill("1000")
    served.locator('.mode input[value="base"]').check()
    served.locator("#question").fill(QUESTION)
    served.locator("#question").press("Enter")
    expect(served.locator(".column .error")).to_have_text(
        "The server did not accept this: max_tokens must be at most 64, got 1000."
    )
    served.locator("#add").click()
    served.locator("#add-title").fill("Long")
    served.locator("#add-text").fill("word " * 5000)
    served.locator("#add-form .main-button").click()
    expect(served.locator("#add-error")).to_contain_text("characters, and at most 20000 are taken")


def test_stop_reaches_the_server(
    served: Page, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Batch.step

    def slow(batch: Batch) -> list[Spoken]:  # the tiny model would have answered before the click
        time.sleep(0.2)
        return step(batch)

    monkeypatch.setattr(Batch, "step", slow)
    served.locator("#max-tokens").fill("64")
    served.locator("#question").fill(QUESTION)
    served.locator("#question").press("Enter")
    served.locator("#stop").click()
    expect(served.locator("#stop")).to_have_attribute("aria-disabled", "true")
    for _ in range(200):
        if server.engine.load == (0, 0):
            break
        served.wait_for_timeout(50)
    assert server.engine.load == (0, 0)


def test_a_folder_of_the_page_is_no_folder_of_the_server(server: Running) -> None:
    for path in ("/static/", "/static/../files.py", "/static/%2e%2e/files.py", "/files.py"):
        assert server.ask("GET", path)[0] == 404
    assert (Path(__file__).parents[3] / "live" / "page" / "files.py").is_file()
