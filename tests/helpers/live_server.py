"""A real server on a free port, for the tests of live use."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from live.server.app import make_app
from live.server.engine import Engine
from live.server.run import DrainingServer
from live.server.settings import ServerSettings
from live.session import KnowledgeSession

JSON = {"Content-Type": "application/json"}


class Running:
    """A server that runs in a thread.

    Args:
        session: What it serves.
        settings: Its settings; the port does not count.
    """

    def __init__(self, session: KnowledgeSession, settings: ServerSettings) -> None:
        self.session = session
        app = make_app(session, settings)
        self.engine: Engine = app.state.engine
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        self.server = DrainingServer(config, self.engine, settings.drain_seconds)
        self.thread = threading.Thread(target=self.server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """One request: its status, its body (of JSON, if it is), and its headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, JSON if headers is None else headers)
            answer = connection.getresponse()
            content = answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
            is_json = "json" in told.get("content-type", "")
            return answer.status, json.loads(content) if is_json else content, told
        finally:
            connection.close()

    def chat(self, question: str, model: str = "experts", **more: Any) -> tuple[int, Any]:
        """Ask a question, without streaming."""
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "max_tokens": 4, **more}
        return self.ask("POST", "/v1/chat/completions", body)[:2]

    def send(self, question: str, **more: Any) -> socket.socket:
        """Send a question, and do not wait for the answer."""
        messages = [{"role": "user", "content": question}]
        body = json.dumps({"model": "experts", "messages": messages, **more}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        one = socket.create_connection(("127.0.0.1", self.port))
        kind = "Content-Type: application/json"
        one.sendall(f"{head}{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return one


@contextmanager
def running(session: KnowledgeSession, **settings: Any) -> Iterator[Running]:
    """A server for the duration of a block."""
    one = Running(session, ServerSettings(**settings))
    one.start()
    try:
        yield one
    finally:
        one.stop()
