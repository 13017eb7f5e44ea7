"""A small server that speaks the page's contract, with answers and failures that a test chooses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from live.page import page_files

POLICY = "default-src 'self'"


def token(
    text: str,
    uncertainty: float = 0.1,
    triggered: bool = False,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """A token as the server sends it; ``weights`` has the weight of each passage id."""
    experts = [
        {"passage_id": name, "title": f"Title of {name}", "weight": weight}
        for name, weight in (weights or {}).items()
    ]
    return {"text": text, "uncertainty": uncertainty, "triggered": triggered, "experts": experts}


def passage_id(title: str, text: str) -> str:
    """An id that the content decides."""
    return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]


@dataclass
class Answer:
    """What one mode answers.

    Attributes:
        tokens: As `token` makes them; each is a chunk.
        passages: Ids of the passages that were used.
        wait: If set, no token after the first is sent before this event.
        breaks: The connection ends after the tokens, before the answer is said to be whole.
        finish: The reason of the end.
    """

    tokens: list[dict[str, Any]] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)
    wait: threading.Event | None = None
    breaks: bool = False
    finish: str = "stop"


@dataclass
class Stub:
    """The state of the server, which a test sets and looks at.

    Attributes:
        answers: By mode.
        passages: By id, in order.
        key: If set, the API key that is asked for.
        failures: By path: status, message and headers of an answer that is given once.
        asked: The bodies of the questions.
        keys: The Authorization header of each request; "" without one.
        address: Of the server, with a slash at the end.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    passages: dict[str, dict[str, str]] = field(default_factory=dict)
    key: str = ""
    failures: dict[str, tuple[int, str, dict[str, str]]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    address: str = ""

    def add(self, title: str, text: str) -> dict[str, Any]:
        """Add a passage, as POST does."""
        name = passage_id(title, text)
        added = name not in self.passages
        self.passages.setdefault(name, {"id": name, "title": title, "text": text})
        return {**self.passages[name], "added": added}


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def reply(self, status: int, body: bytes, media_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.reply(status, json.dumps(value).encode(), "application/json", **headers)

    def reply_error(self, status: int, message: str, **headers: str) -> None:
        error = {"message": message, "type": "error", "param": None, "code": None}
        self.reply_json({"error": error}, status, **headers)

    def refused(self) -> bool:
        """Give the error that this request shall get, if any."""
        self.keys.append(self.headers.get("Authorization") or "")
        if self.stub.key and self.keys[-1] != f"Bearer {self.stub.key}":
            self.reply_error(401, "an API key is needed")
            return True
        failure = self.stub.failures.pop(urlsplit(self.path).path, None)
        if failure:
            status, message, headers = failure
            self.reply_error(status, message, **headers)
        return failure is not None

    @property
    def keys(self) -> list[str]:
        return self.stub.keys

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        file = page_files().get(url.path)
        if file:
            self.reply(200, file.body, file.media_type)
        elif self.refused():
            return
        elif url.path == "/v1/models":
            self.reply_json(
                {"object": "list", "data": [{"id": mode} for mode in self.stub.answers]}
            )
        elif url.path == "/passages":
            self.list_passages({key: values[0] for key, values in parse_qs(url.query).items()})
        elif (name := unquote(url.path.rpartition("/")[2])) in self.stub.passages:
            self.reply_json(self.stub.passages[name])
        else:
            self.reply_error(404, f"there is nothing at {url.path}")

    def list_passages(self, query: dict[str, str]) -> None:
        every = list(self.stub.passages.values())
        start = 0
        if "after" in query:
            ids = [passage["id"] for passage in every]
            if query["after"] not in ids:
                self.reply_error(404, f"there is no passage {query['after']}")
                return
            start = ids.index(query["after"]) + 1
        shown = every[start : start + int(query["limit"])]
        more = start + len(shown) < len(every)
        after = shown[-1]["id"] if more else None
        self.reply_json({"passages": shown, "total": len(every), "next": after})

    def do_DELETE(self) -> None:
        if self.refused():
            return
        if self.stub.passages.pop(unquote(self.path.rpartition("/")[2]), None) is None:
            self.reply_error(404, "there is no such passage")
            return
        self.send_response(204)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        if self.path == "/passages":
            added = [self.stub.add(one["title"], one["text"]) for one in body["passages"]]
            self.reply_json({"passages": added}, 201)
            return
        self.stub.asked.append(body)
        with suppress(BrokenPipeError, ConnectionResetError):  # the page has stopped the answer
            self.stream(self.stub.answers[body["model"]])

    def stream(self, answer: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b": nothing yet\n\n")
        used = [
            {"id": name, "title": self.stub.passages.get(name, {}).get("title", f"Title of {name}")}
            for name in answer.passages
        ]
        for index, one in enumerate(answer.tokens):
            if index == 1 and answer.wait:
                while not answer.wait.wait(0.05):
                    self.wfile.write(b": still here\n\n")  # fails when nobody listens
            delta = {"index": 0, "delta": {"content": one["text"]}, "finish_reason": None}
            self.send({"choices": [delta], "knowledge": {"tokens": [one], "passages": used}})
        if answer.breaks:
            return
        end = {"index": 0, "delta": {}, "finish_reason": answer.finish}
        usage = {"prompt_tokens": 9, "completion_tokens": len(answer.tokens)}
        nothing: dict[str, list[Any]] = {"tokens": [], "passages": []}
        self.send({"choices": [end], "usage": usage, "knowledge": nothing})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve a stub on a free port while the context lasts."""
    handler = type("_Bound", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stub.address = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
