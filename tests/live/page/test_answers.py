"""Questions and answers in a browser: streaming, colours, provenance, the keyboard, failures."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.live.page.chromium import patient_expect
from tests.live.page.stub import Answer, Stub, token

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

expect = patient_expect()
pytestmark = pytest.mark.slow

QUESTION = "Which city did Befu Gild come from?"


def ask(page: Page, *, mode: str = "all", done: bool = True) -> None:
    """Ask with the keyboard alone; with ``done``, wait for the last answer."""
    page.locator(f'.mode input[value="{mode}"]').check()
    page.locator("#question").fill(QUESTION)
    page.locator("#question").press("Enter")
    if done:
        expect(page.locator("#stop")).to_have_attribute("aria-disabled", "true")


def column(page: Page, mode: str) -> Locator:
    """The column of a mode."""
    return page.locator(f'.column[data-mode="{mode}"]')


def test_three_answers_stand_side_by_side_each_with_its_time(page: Page, stub: Stub) -> None:
    ask(page)
    texts = [column(page, mode).locator(".plain").text_content() for mode in stub.answers]
    assert texts == ["A city.", "In Lisbon", " Lisbon"]
    for mode, answer in stub.answers.items():
        words = f"{len(answer.tokens)} tokens in "
        expect(column(page, mode).locator(".state")).to_contain_text(words)
    # One after the other, so that none makes another one slower.
    assert [body["model"] for body in stub.asked] == ["base", "rag", "experts"]
    assert stub.asked[0]["messages"] == [{"role": "user", "content": QUESTION}]
    assert stub.asked[0]["stream"] is True
    assert stub.asked[0]["max_tokens"] == 48
    boxes = [column(page, mode).bounding_box() for mode in stub.answers]
    assert [box["y"] for box in boxes if box] == [boxes[0]["y"]] * 3  # type: ignore[index]


def test_one_mode_alone(page: Page, stub: Stub) -> None:
    page.locator("#max-tokens").fill("7")
    ask(page, mode="experts")
    expect(page.locator(".column")).to_have_count(1)
    assert [(body["model"], body["max_tokens"]) for body in stub.asked] == [("experts", 7)]


def test_tokens_appear_while_the_answer_is_decoded(page: Page, stub: Stub) -> None:
    wait = stub.answers["experts"].wait = threading.Event()
    ask(page, mode="experts", done=False)
    tokens = column(page, "experts").locator(".token")
    expect(tokens).to_have_count(1)
    expect(page.locator("#announcer")).to_be_empty()  # not token by token
    wait.set()
    expect(tokens).to_have_count(2)
    expect(page.locator("#announcer")).to_have_text("Experts: Lisbon")


def test_colours_are_even_steps_of_uncertainty(page: Page, stub: Stub) -> None:
    nats = [0.0, 1.5, 3.0, 4.5, 6.0, 9.0]
    stub.answers["base"] = Answer([token("x", value) for value in nats])
    ask(page, mode="base")
    colours = page.locator(".token").evaluate_all(
        """tokens => tokens.map((token) => {
          const colour = getComputedStyle(token).backgroundColor;
          return colour.match(/oklab\\(([^)]+)\\)/)[1].split(" ").map(Number);
        })"""
    )
    steps = [
        sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) ** 0.5
        for one, two in pairwise(colours)
    ]
    assert min(steps[:4]) > 0.02
    assert max(steps[:4]) == pytest.approx(min(steps[:4]), rel=1e-3)
    assert steps[4] == 0  # beyond the end of the scale
    light = [colour[0] for colour in colours]
    assert light == sorted(light, reverse=True)


def test_colour_is_not_all(page: Page) -> None:
    ask(page)
    tokens = column(page, "experts").locator(".token")
    title = tokens.nth(0).get_attribute("title") or ""
    assert title.startswith("2.50 nats; the router was asked; in the parameters: Title of ")
    assert (tokens.nth(1).get_attribute("title") or "").startswith("0.02 nats; in the parameters: ")
    lines = tokens.evaluate_all("all => all.map(e => getComputedStyle(e).textDecorationLine)")
    assert lines == ["underline", "none"]
    expect(page.locator("#legend")).to_be_visible()
    expect(page.locator("#legend")).to_contain_text("Uncertainty (nats)")


def test_a_token_says_what_was_injected_there(page: Page) -> None:
    ask(page)
    column(page, "experts").locator(".token").nth(0).click()
    expect(page.locator("#inspector-token")).to_have_text("␣Lis")
    expect(page.locator("#inspector-where")).to_have_text("token 1 of 2, Experts")
    expect(page.locator("#inspector-uncertainty")).to_have_text(
        "Uncertainty 2.50 nats, like a choice among 12 equally probable tokens"
    )
    expect(page.locator("#inspector-trigger")).to_be_visible()
    expect(page.locator("#inspector-experts .weight")).to_have_text(["0.80", "0.20"])
    widths = page.locator("#inspector-experts .bar").evaluate_all(
        "bars => bars.map(b => b.firstElementChild.offsetWidth / b.offsetWidth)"
    )
    assert widths == pytest.approx([0.8, 0.2], abs=0.02)
    column(page, "experts").locator(".token").nth(1).click()
    expect(page.locator("#inspector-trigger")).to_be_hidden()
    column(page, "rag").locator(".token").nth(0).click()
    expect(page.locator("#inspector-none")).to_have_text(
        "Nothing. The passages stand in the prompt."
    )
    expect(page.locator('[aria-selected="true"]')).to_have_count(1)


def test_a_passage_opens_from_a_token_and_gives_the_focus_back(page: Page, stub: Stub) -> None:
    ask(page)
    column(page, "experts").locator(".token").nth(0).click()
    first = page.locator("#inspector-experts button").nth(0)
    first.press("Enter")
    expect(page.locator("#passage-dialog")).to_be_visible()
    expect(page.locator("#passage-dialog-text")).to_have_text("Befu Gild was born in Lisbon.")
    page.keyboard.press("Escape")
    expect(page.locator("#passage-dialog")).to_be_hidden()
    expect(first).to_be_focused()
    page.locator("#inspector-experts button").nth(1).click()  # p2 is not on the server
    expect(page.locator("#passage-dialog-error")).to_have_text(
        "This passage has been removed since."
    )


def test_the_keyboard_goes_through_the_tokens(page: Page, stub: Stub) -> None:
    words = "the city of Lisbon lies by the wide river and by the sea as well ".split()
    stub.answers["base"] = Answer([token(f" {word}") for word in words * 3])
    ask(page)
    tokens = column(page, "base").locator(".token")
    stops = column(page, "base").locator('.token[tabindex="0"]')
    expect(stops).to_have_count(1)
    column(page, "base").locator(".token").nth(0).focus()
    for key, at in [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", len(words) * 3 - 1),
        ("ArrowRight", len(words) * 3 - 1),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowUp", 0),
    ]:
        page.keyboard.press(key)
        expect(tokens.nth(at)).to_be_focused()
        expect(tokens.nth(at)).to_have_attribute("aria-selected", "true")
        expect(page.locator("#inspector-where")).to_contain_text(f"token {at + 1} of")
    above = tokens.nth(0).bounding_box()
    page.keyboard.press("ArrowDown")
    below = page.locator(".token:focus").bounding_box()
    assert above
    assert below
    assert below["y"] > above["y"] + above["height"] / 2
    assert abs(below["x"] - above["x"]) < 40
    page.keyboard.press("ArrowUp")
    back = page.locator(".token:focus").bounding_box()
    assert back
    assert back["y"] == above["y"]
    expect(stops).to_have_count(1)
    # One stop for each answer: the next Tab leaves these tokens.
    page.keyboard.press("Tab")
    expect(page.locator(".column[data-mode=base] .token:focus")).to_have_count(0)


def test_what_is_invisible_in_a_token_gets_a_sign(page: Page, stub: Stub) -> None:
    stub.answers["base"] = Answer([token(text) for text in ("a", "\n\n", "  ", "", "b")])
    ask(page, mode="base")
    assert page.locator(".token").all_text_contents() == ["a", "↵\n↵\n", "␣␣", "·", "b"]


def test_an_answer_is_text_whatever_it_says(page: Page, stub: Stub) -> None:
    evil = "<img src=x onerror=alert(1)><script>document.title='x'</script>"
    stub.answers["base"] = Answer([token(evil, 0.1, False, {evil: 1.0})], [evil])
    ask(page, mode="base")
    expect(page.locator(".token")).to_have_text(evil)
    page.locator(".token").click()
    expect(page.locator("#inspector-experts button")).to_have_text(f"Title of {evil}")
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "GenPoE and DMoE, live"


def test_a_cut_answer_says_so(page: Page, stub: Stub) -> None:
    stub.answers["base"].finish = "length"
    ask(page, mode="base")
    expect(page.locator(".state")).to_contain_text("cut off at the limit")


def test_stop_keeps_what_there_is_and_asks_nothing_more(page: Page, stub: Stub) -> None:
    stub.answers["rag"].wait = threading.Event()
    ask(page, done=False)
    expect(column(page, "rag").locator(".token")).to_have_count(1)
    page.locator("#stop").press("Enter")
    expect(column(page, "rag").locator(".state")).to_have_text("stopped after 1 token")
    expect(column(page, "experts").locator(".state")).to_have_text("not asked")
    expect(column(page, "rag").locator(".error")).to_be_hidden()
    expect(page.locator("#stop")).to_be_focused()
    assert [body["model"] for body in stub.asked] == ["base", "rag"]


def test_another_question_replaces_the_one_that_is_answered(page: Page, stub: Stub) -> None:
    stub.answers["base"].wait = threading.Event()
    ask(page, mode="base", done=False)
    expect(page.locator(".token")).to_have_count(1)
    ask(page, mode="rag")
    expect(page.locator(".column")).to_have_count(1)
    expect(page.locator(".token")).to_have_text(["In", " Lisbon"])
    expect(page.locator("#announcer")).to_have_text("RAG: In Lisbon")


def test_a_stream_that_breaks_off_keeps_its_tokens_and_can_be_tried_again(
    page: Page, stub: Stub
) -> None:
    stub.answers["rag"].breaks = True
    ask(page)
    rag = column(page, "rag")
    expect(rag.locator(".error")).to_have_text(
        "The connection was lost before the answer was whole."
    )
    expect(rag.locator(".token")).to_have_count(2)
    expect(rag.locator(".state")).to_have_text("broken off after 2 tokens")
    expect(column(page, "experts").locator(".token")).to_have_count(2)  # is not hurt
    stub.answers["rag"].breaks = False
    rag.locator(".again").press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    expect(rag.locator(".state")).to_contain_text("2 tokens in")
    expect(rag.locator(".error")).to_be_hidden()
    assert [body["model"] for body in stub.asked] == ["base", "rag", "experts", "rag"]


def test_a_busy_server_is_asked_again_when_it_wants(page: Page, stub: Stub) -> None:
    stub.failures["/v1/chat/completions"] = (429, "too many requests", {"Retry-After": "2"})
    ask(page)
    base = column(page, "base")
    expect(base.locator(".error")).to_have_text("The server is busy.")
    again = base.locator(".again")
    expect(again).to_contain_text("Try again in")
    again.dispatch_event("click")  # too early
    assert [body["model"] for body in stub.asked] == ["rag", "experts"]
    expect(again).to_have_text("Try again")
    again.click()
    expect(base.locator(".token")).to_have_count(3)


def test_a_server_that_shuts_down_is_not_asked_for_the_others(page: Page, stub: Stub) -> None:
    stub.failures["/v1/chat/completions"] = (503, "shutting down", {})
    ask(page)
    expect(column(page, "base").locator(".error")).to_have_text("The server is shutting down.")
    expect(column(page, "rag").locator(".state")).to_have_text("not asked")
    assert stub.asked == []


def test_a_server_that_is_gone(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    ask(page, mode="base")
    expect(page.locator(".column .error")).to_have_text(
        "The server cannot be reached. Is it still running?"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('data: {"error":{"message":"out of memory"}}\n\n', "The server failed: out of memory."),
        ("data: {nonsense\n\n", "The server sent something that is no part of an answer."),
        ("", "The connection was lost before the answer was whole."),
        ("data: [DO", "The connection was lost before the answer was whole."),
    ],
)
def test_errors_inside_a_stream(page: Page, body: str, message: str) -> None:
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )
    ask(page, mode="base")
    expect(page.locator(".column .error")).to_have_text(message)


def test_a_plain_server_without_provenance(page: Page) -> None:
    chunks = 'data: {"choices":[{"delta":{"content":"Li"}}]}\r\n\r\ndata: {"choices":\r\n'
    chunks += 'data: [{"delta":{"content":"ma"}}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=chunks),
    )
    ask(page, mode="base")
    expect(page.locator(".token")).to_have_text(["Li", "ma"])
    page.locator(".token").nth(0).click()
    expect(page.locator("#inspector-uncertainty")).to_have_text("Uncertainty: not measured")


def test_a_refused_request_says_why(page: Page, stub: Stub) -> None:
    stub.failures["/v1/chat/completions"] = (400, "max_tokens must be at most 32, got 48", {})
    ask(page, mode="base")
    expect(page.locator(".column .error")).to_have_text(
        "The server did not accept this: max_tokens must be at most 32, got 48."
    )


def test_an_api_key_is_asked_for_and_kept_in_memory_only(page: Page, stub: Stub) -> None:
    stub.key = "sesame"
    stub.keys.clear()
    ask(page, mode="base", done=False)
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    expect(page.locator("#key")).to_be_focused()
    for wrong, says in [
        ("schlüssel", "A key has only ASCII letters, digits and signs, without spaces."),
        ("wrong", "The server did not accept that key."),
    ]:
        page.locator("#key").fill(wrong)
        page.keyboard.press("Enter")
        expect(page.locator("#key-error")).to_have_text(says)
    page.locator("#key").fill("sesame")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator(".token")).to_have_count(3)
    assert stub.keys == ["", "Bearer wrong", "Bearer sesame"]
    ask(page, mode="rag")  # is not asked for again
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]
    page.reload()
    expect(dialog).to_be_visible()
    assert page.locator("#key").input_value() == ""


def test_no_key_is_an_error_that_says_so(page: Page, stub: Stub) -> None:
    stub.key = "sesame"
    ask(page, done=False)
    page.locator("#key-cancel").click()
    expect(column(page, "base").locator(".error")).to_have_text("This server asks for an API key.")
    expect(column(page, "rag").locator(".state")).to_have_text("not asked")
