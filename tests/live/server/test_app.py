"""The official client works, and passages come and go over HTTP."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import openai
import pytest

from backbone.model import Backbone
from live.server.gate import POLICY
from tests.helpers.live import PASSAGES, QUESTION, reader_session
from tests.helpers.live_server import Running, running

MODELS = ("base", "rag", "experts")


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")


def test_the_official_client_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == list(MODELS)
    assert client.models.retrieve("rag").owned_by == "genpoe-dmoe"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize("model", MODELS)
def test_the_official_client_asks(client: openai.OpenAI, server: Running, model: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    given = {"model": model, "messages": messages, "max_tokens": 8}
    whole = client.chat.completions.create(**given)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**given, stream=True))  # type: ignore[call-overload]
    said = server.session.ask(QUESTION, model, 8)  # type: ignore[arg-type]
    assert whole.choices[0].message.content == said.text
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == said.text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens == said.prompt_tokens
    assert whole.usage.completion_tokens == len(said.tokens)
    knowledge = whole.knowledge
    assert [token for chunk in chunks for token in chunk.knowledge["tokens"]] == knowledge["tokens"]
    assert [token["text"] for token in knowledge["tokens"]] == [t.text for t in said.tokens]
    assert [passage["id"] for passage in knowledge["passages"]] == [p.id for p in said.passages]
    for token, wanted in zip(knowledge["tokens"], said.tokens, strict=True):
        assert token["uncertainty"] == pytest.approx(wanted.uncertainty, abs=1e-3)
        assert token["triggered"] == wanted.triggered
        ids = [expert["passage_id"] for expert in token["experts"]]
        assert ids == [expert.passage.id for expert in wanted.experts]
    assert bool(knowledge["tokens"][0]["experts"]) == (model == "experts")


def test_a_stream_is_of_server_sent_events(server: Running) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    body = {"model": "rag", "messages": messages, "stream": True, "max_completion_tokens": 3}
    status, content, headers = server.ask("POST", "/v1/chat/completions", body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = content.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["knowledge"]["passages"] for chunk in chunks)
    assert [("usage" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_passages_come_and_go(live_backbone: Backbone, tmp_path: Path) -> None:
    with running(reader_session(live_backbone, tmp_path, tmp_path / "kept")) as server:
        assert server.ask("GET", "/passages")[1] == {"passages": [], "total": 0, "next": None}
        before = server.chat(QUESTION)[1]
        given = [{"title": each.title, "text": each.text} for each in PASSAGES]
        status, added, _ = server.ask("POST", "/passages", {"passages": given})
        assert status == 201
        assert [each["added"] for each in added["passages"]] == [True] * len(PASSAGES)
        again = server.ask("POST", "/passages", {"passages": [*given[:1], {"text": "New."}]})[1]
        assert [each["added"] for each in again["passages"]] == [False, True]
        answer = server.chat(QUESTION)[1]
        assert answer["knowledge"]["tokens"][0]["experts"][0]["title"] == "Tova Blick"
        first = added["passages"][0]
        one = server.ask("GET", f"/passages/{first['id']}")[1]
        assert one == {key: first[key] for key in ("id", "title", "text")}
        listed: list[dict[str, str]] = []
        after: str | None = ""
        while after is not None:
            page = server.ask("GET", f"/passages?limit=3{after and f'&after={after}'}")[1]
            listed += page["passages"]
            assert page["total"] == 7
            after = page["next"]
        assert [each["title"] for each in listed] == [*(p.title for p in PASSAGES), ""]
        for each in listed:
            assert server.ask("DELETE", f"/passages/{each['id']}")[0] == 204
            assert server.ask("DELETE", f"/passages/{each['id']}")[0] == 404
            assert server.ask("GET", f"/passages/{each['id']}")[0] == 404
        after_all = server.chat(QUESTION)[1]
        for key in ("choices", "usage", "knowledge"):
            assert after_all[key] == before[key]
        counters = server.ask("GET", "/metrics")[1].decode()
        assert 'genpoe_passage_changes_total{change="add"} 7.0' in counters
        assert 'genpoe_passage_changes_total{change="remove"} 7.0' in counters
        assert "genpoe_passages 0.0" in counters
        assert "genpoe_first_token_seconds_count 3.0" in counters


def test_the_state_is_told(server: Running) -> None:
    status, state, headers = server.ask("GET", "/health")
    assert (status, state["status"], state["passages"]) == (200, "ok", len(PASSAGES))
    assert headers["content-security-policy"] == POLICY
    for source in POLICY.split("; "):
        assert source.split()[-1] in ("'none'", "'self'", "data:")


def test_the_page_is_served(server: Running) -> None:
    status, page, headers = server.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<script" in page
    assert server.ask("GET", "/static/page.js")[0] == 200
    for path in ("/static/../session.py", "/static/%2e%2e/%2e%2e/session.py", "/static/none.js"):
        assert server.ask("GET", path)[0] == 404


def test_each_row_is_told_where_it_came_from(server: Running) -> None:
    """Different questions at once: nobody gets another's tokens or passages."""
    session = server.session
    asks = [(f"Where was {passage.title} born?", model) for passage in PASSAGES for model in MODELS]
    wanted = {ask: session.ask(*ask, 4) for ask in asks}  # type: ignore[arg-type]
    wrong: list[object] = []

    def client(number: int) -> None:
        for ask in [*asks[number:], *asks[:number]]:
            status, answer = server.chat(*ask)
            said = wanted[ask]
            tokens = answer["knowledge"]["tokens"]
            ids = [[e["passage_id"] for e in token["experts"]] for token in tokens]
            expected = [[e.passage.id for e in token.experts] for token in said.tokens]
            shown = [passage["id"] for passage in answer["knowledge"]["passages"]]
            right = (status, answer["choices"][0]["message"]["content"], ids, shown)
            if right != (200, said.text, expected, [p.id for p in said.passages]):
                wrong.append((ask, right))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.engine.is_idle
