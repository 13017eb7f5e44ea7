"""Malformed requests: each gets a clear answer, and the server lives on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.live_server import JSON, Running

CHAT, PASSAGES = "/v1/chat/completions", "/passages"
USER = {"role": "user", "content": "Who?"}
GOOD: dict[str, Any] = {"model": "base", "messages": [USER], "max_tokens": 2}
WRONG_VALUES: list[Any] = [0, -1, 1.5, "", "x", True, [], {}, [1], {"a": 1}, 10**30, "\u0000"]
Kind = tuple[str, str, str, bytes, dict[str, str], int]
KINDS: list[Kind] = []


def kind(
    name: str, method: str, path: str, body: Any, status: int, headers: dict[str, str] | None = None
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    KINDS.append((name, method, path, sent, JSON if headers is None else headers, status))


# Bodies that are no JSON, or another JSON, for both paths that take one.
NO_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "half an object": b'{"model": "base"',
    "a trailing comma": b'{"model": "base",}',
    "single quotes": b"{'model': 'base'}",
    "broken UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "base"}'.encode("utf-16-le")[1:],
    "zeros": bytes(100),
    "a nest": b"[" * 20_000,
    "a closed nest": b"[" * 20_000 + b"]" * 20_000,
    "half a surrogate pair": b'{"model": "\\ud800", "messages": [], "passages": "\\udfff"}',
    "a string": b'"text"',
    "a number": b"7",
    "a huge number": b"9" * 5_000,
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a form": b"model=base&messages=none",
    "XML": b"<?xml version='1.0'?><a/>",
}
for place in (CHAT, PASSAGES):
    for name, body in NO_JSON.items():
        kind(f"{name} to {place}", "POST", place, body, 400)
    for name, content_type in (
        *(("text", "text/plain"), ("a form", "application/x-www-form-urlencoded")),
        *(("several parts", "multipart/form-data; boundary=x"), ("no type", "")),
    ):
        given = {"Content-Type": content_type} if content_type else {"Accept": "*/*"}
        kind(f"{name} as the type to {place}", "POST", place, GOOD, 415, given)

# Each field left out, or of a wrong type or value.
for field in ("model", "messages"):
    kind(f"without {field}", "POST", CHAT, {k: v for k, v in GOOD.items() if k != field}, 400)
    kind(f"{field} is null", "POST", CHAT, {**GOOD, field: None}, 400)
for value in WRONG_VALUES:
    if value not in ("x",):
        kind(f"messages={value!r}", "POST", CHAT, {**GOOD, "messages": value}, 400)
    if not isinstance(value, str):
        kind(f"model={value!r}", "POST", CHAT, {**GOOD, "model": value}, 400)
for value in ("gpt-4o", "", "BASE", "base ", "experts/../base", "x" * 10_000, "ＢＡＳＥ"):
    kind(f"the model {value[:20]!r}", "POST", CHAT, {**GOOD, "model": value}, 404)
for field in ("max_tokens", "max_completion_tokens"):
    for value in (0, -1, 1.5, "3", True, [], {}, 17, 10**30):
        kind(f"{field}={value!r}", "POST", CHAT, {**GOOD, field: value}, 400)
for field, limit in (("temperature", 2.1), ("top_p", 1.1), ("presence_penalty", 3)):
    for value in (limit, -3, "1", True, [], {}):
        kind(f"{field}={value!r}", "POST", CHAT, {**GOOD, field: value}, 400)
    for word in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps({**GOOD, field: 12345}).replace("12345", word).encode()
        kind(f"{field}={word}", "POST", CHAT, body, 400)
for field, values in {
    "stream": (1, "true", [], {}),
    "n": (0, 2, "1", [], 1.5),
    "seed": ("1", 1.5, []),
    "user": (1, [], {}),
    "logprobs": (True, 1, "no"),
    "stop": ("x", ["x"]),
    "tools": ([], [{"type": "function"}]),
    "tool_choice": ("auto",),
    "response_format": ({"type": "json_object"},),
    "logit_bias": ({}, {"50256": -100}),
    "store": (True,),
    "metadata": ("x", {"a": 1}),
    "stream_options": ("x", {"include_usage": 1}),
}.items():
    for value in values:
        kind(f"{field}={value!r}", "POST", CHAT, {**GOOD, field: value}, 400)
for field in ("prompt", "input", "knowledge", "__proto__", "max_new_tokens", "Model"):
    kind(f"the unknown field {field}", "POST", CHAT, {**GOOD, field: 1}, 400)
BLANK: list[Any] = [None, "", "  \n", 1, {}, True]
PARTS: list[Any] = [[], [1], ["x"], [{"text": "x"}]]
messages: tuple[Any, ...] = (
    *(None, 1, "Who?", [], {}, {"role": "user"}, {"content": "Who?"}),
    *({"role": role, "content": "x"} for role in ("", "User", "robot", None, 1)),
    *({"role": "user", "content": content} for content in BLANK),
    *({"role": "user", "content": content} for content in PARTS),
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
    {"role": "user", "content": [{"type": "text", "text": 1}]},
    {"role": "user", "content": "x" * 501},
    {"role": "assistant", "content": "I am alone."},
    {"role": "system", "content": "Only rules."},
)
for message in messages:
    kind(f"the message {str(message)[:60]}", "POST", CHAT, {**GOOD, "messages": [message]}, 400)
kind("many messages", "POST", CHAT, {**GOOD, "messages": [USER] * 1001}, 400)

# Passages.
for value in WRONG_VALUES:
    kind(f"passages={value!r}", "POST", PASSAGES, {"passages": value}, 400)
for passage in (
    *(None, 1, "text", {}, {"title": "x"}, {"text": None}, {"text": 1}, {"text": ""}),
    *({"text": " \n\t "}, {"text": "x", "title": None}, {"text": "x", "title": 1}),
    *({"text": "x", "id": "mine"}, {"text": ["x"]}, {"text": "x" * 2001}),
    {"text": "x", "title": "x" * 2000},
):
    kind(f"the passage {str(passage)[:60]}", "POST", PASSAGES, {"passages": [passage]}, 400)
kind("many passages", "POST", PASSAGES, {"passages": [{"text": str(n)} for n in range(101)]}, 400)
kind("another field", "POST", PASSAGES, {"passages": [{"text": "x"}], "replace": True}, 400)
for query in ("limit=0", "limit=-1", "limit=x", "limit=1001", "limit=", "limit=1e3", "limit=٣"):
    quoted = query.encode().decode("latin-1") if query.isascii() else "limit=%D9%A3"
    kind(f"passages?{query}", "GET", f"{PASSAGES}?{quoted}", b"", 400)
kind("after nothing", "GET", f"{PASSAGES}?after=none", b"", 400)
kind("a long limit", "GET", f"{PASSAGES}?limit={'1' * 5000}", b"", 400)
for id in ("none", "0" * 32, "%00", "..%2f..%2fetc", "x" * 5000, "%F0%9F%A6%8A", "'%20OR%201=1"):
    for method in ("GET", "DELETE"):
        kind(f"{method} the passage {id[:20]}", method, f"{PASSAGES}/{id}", b"", 404)

# Paths and methods.
for path in ("/v1", "/v1/completions", "/v1/embeddings", "/docs", "/openapi.json", "/admin", "//"):
    kind(f"GET {path}", "GET", path, b"", 404)
for method, path in (
    *(("GET", CHAT), ("PUT", CHAT), ("DELETE", CHAT), ("POST", "/v1/models")),
    *(("PUT", PASSAGES), ("DELETE", PASSAGES), ("PATCH", PASSAGES), ("POST", "/health")),
    *(("POST", "/"), ("TRACE", "/health"), ("OPTIONS", CHAT)),
):
    kind(f"{method} {path}", method, path, b"{}", 405)

# Whoever sends it.
for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "[::2]", "[", ""):
    kind(f"the host {host!r}", "GET", PASSAGES, b"", 403, {"Host": host})
for origin in (
    "http://evil.example",
    "null",
    "https://localhost",
    "http://127.0.0.1:1",
    "http://[",
):
    kind(f"the origin {origin}", "POST", PASSAGES, GOOD, 403, {**JSON, "Origin": origin})
kind("a body that is too large", "POST", PASSAGES, b" " * 50_001, 413)
kind("a question that is too large", "POST", CHAT, b" " * 60_000, 413)


def test_there_are_enough_kinds() -> None:
    assert len({name for name, *_ in KINDS}) == len(KINDS) > 200


@pytest.mark.parametrize("case", KINDS, ids=[name for name, *_ in KINDS])
def test_it_is_refused_with_a_clear_message(server: Running, case: Kind) -> None:
    _, method, path, body, headers, status = case
    found, answer, _ = server.ask(method, path, body, headers)
    assert found == status, answer
    error = answer["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10
    assert len(error["message"]) < 400
    assert "Traceback" not in error["message"]


def test_the_server_lives_on(server: Running) -> None:
    assert server.chat("Where was Tova Blick born?")[0] == 200
    assert server.ask("GET", "/health")[1]["passages"] == 6
    assert server.engine.is_idle
