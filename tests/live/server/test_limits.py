"""Queues, keys, slow clients and the end: none of them hurts another client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backbone.model import Backbone
from live.decoding import Batch
from live.server.settings import ServerSettings
from live.session import KnowledgeSession
from plumbing.mounts import SettingValueError
from tests.helpers.live import PASSAGES, QUESTION, reader_session
from tests.helpers.live_server import JSON, Running, running


class Held:
    """A session whose tokens wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        step = Batch.step

        def waiting(batch: Batch) -> Any:
            self.gate.wait(60)
            return step(batch)

        monkeypatch.setattr(Batch, "step", waiting)


def in_threads(count: int, function: Any) -> tuple[list[threading.Thread], list[Any]]:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_again(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reader_session(live_backbone, tmp_path)
    held = Held(monkeypatch)
    with running(session, max_batch=2, max_queue=3) as server:
        threads, results = in_threads(1, lambda: server.chat(QUESTION))
        until(lambda: server.engine.load == (0, 1))
        more, others = in_threads(3, lambda: server.chat(QUESTION))
        until(lambda: server.engine.load[0] == 3)
        status, answer, headers = server.ask(
            "POST",
            "/v1/chat/completions",
            {"model": "base", "messages": [{"role": "user", "content": "Who?"}]},
        )
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert answer["error"]["type"] == "rate_limit_error"
        assert int(headers["retry-after"]) >= 1
        held.gate.set()
        for thread in [*threads, *more]:
            thread.join()
        assert [found for found, _ in [*results, *others]] == [200] * 4


def test_what_has_begun_is_finished_and_nothing_new_is_taken(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reader_session(live_backbone, tmp_path, tmp_path / "kept")
    session.add(PASSAGES)
    held = Held(monkeypatch)
    server = Running(session, ServerSettings(drain_seconds=600.0))
    server.start()
    threads, results = in_threads(3, lambda: server.chat(QUESTION))
    until(lambda: sum(server.engine.load) == 3)
    server.server.handle_exit(15, None)
    for method, path, body in (
        ("POST", "/v1/chat/completions", {"model": "base", "messages": []}),
        ("POST", "/passages", {"passages": [{"text": "x"}]}),
        ("GET", "/v1/models", None),
    ):
        status, answer, headers = server.ask(method, path, body)
        assert (status, answer["error"]["code"]) == (503, "stopping")
        assert int(headers["retry-after"]) >= 1
    status, state, _ = server.ask("GET", "/health")
    assert (status, state["status"]) == (503, "stopping")
    held.gate.set()
    for thread in threads:
        thread.join()
    assert [status for status, _ in results] == [200] * 3
    server.thread.join(60)
    assert not server.thread.is_alive()
    reader_session(live_backbone, tmp_path, tmp_path / "kept").close()  # the folder is free again


def test_a_client_that_sends_slowly_keeps_nobody_waiting(
    live_backbone: Backbone, tmp_path: Path
) -> None:
    session = reader_session(live_backbone, tmp_path)
    with running(session, body_seconds=0.5) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        head = "POST /passages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert server.chat(QUESTION)[0] == 200
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 408
        assert "within 0.5 s" in json.loads(answer.read())["error"]["message"]
        slow.close()


def test_a_body_without_a_length_is_cut_off(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    parts = (b" " * 10_000 for _ in range(6))
    connection.request("POST", "/passages", parts, JSON, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_clients_that_read_nothing_or_leave_keep_nobody_waiting(server: Running) -> None:
    silent = []
    for number in range(6):
        one = server.send(QUESTION, stream=True)
        if number % 2:
            one.close()
        else:
            silent.append(one)
    assert server.chat(QUESTION)[0] == 200
    until(lambda: server.engine.is_idle)
    for one in silent:
        one.close()


def test_a_fault_while_decoding_is_told_to_those_whom_it_concerns(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reader_session(live_backbone, tmp_path)
    with running(session) as server:
        with monkeypatch.context() as patch:
            patch.setattr("live.decoding.Batch.step", lambda _: 1 / 0)
            status, answer = server.chat(QUESTION)
            assert (status, answer["error"]["type"]) == (500, "server_error")
            assert "log says why" in answer["error"]["message"]
        assert server.chat(QUESTION)[0] == 200


def test_a_question_too_long_for_the_model_is_refused_alone(
    live_backbone: Backbone, tmp_path: Path
) -> None:
    session = reader_session(live_backbone, tmp_path)
    with running(session, max_question=20_000) as server:
        status, answer = server.chat("sea " * 3000)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert server.chat("sea " * 3000, stream=True)[0] == 400
        assert server.chat(QUESTION)[0] == 200


def test_a_session_that_is_full_says_so(live_backbone: Backbone, tmp_path: Path) -> None:
    with running(reader_session(live_backbone, tmp_path), max_stored=2) as server:
        given = [{"text": f"passage {number}"} for number in range(3)]
        status, answer, _ = server.ask("POST", "/passages", {"passages": given})
        assert (status, answer["error"]["code"]) == (409, "too_many_passages")
        assert server.ask("POST", "/passages", {"passages": given[:2]})[0] == 201
        assert server.ask("POST", "/passages", {"passages": given[:1]})[0] == 201


def test_of_many_passages_one_is_read_between_two_tokens(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reader_session(live_backbone, tmp_path)
    happened: list[str] = []
    begin, step = KnowledgeSession.begin, Batch.step
    gate = threading.Event()

    def decodes(batch: Batch) -> Any:
        gate.wait(60)
        time.sleep(0.01)  # what is asked for meanwhile has time to arrive
        happened.append("token")
        return step(batch)

    monkeypatch.setattr(Batch, "step", decodes)
    monkeypatch.setattr(
        KnowledgeSession, "begin", lambda session, asks: begin(session, asks, stops=False)
    )
    monkeypatch.setattr(
        session.experts, "prepare", lambda ids: happened.extend(["read"] * len(ids))
    )
    with running(session, max_queue=2, max_tokens=200) as server:
        asking, _ = in_threads(1, lambda: server.chat(QUESTION, max_tokens=200))
        until(lambda: server.engine.load == (0, 1))
        bodies = [
            {"passages": [{"text": f"passage {name} {number}"} for number in range(4)]}
            for name in "ab"
        ]
        adding = [in_threads(1, partial(server.ask, "POST", "/passages", body)) for body in bodies]
        until(lambda: len(server.engine._calls) == 2)
        gate.set()
        for threads, _ in [*adding, (asking, [])]:
            threads[0].join()
        assert [results[0][0] for _, results in adding] == [201, 201]
        assert happened.count("read") == 8
        last = max(place for place, what in enumerate(happened) if what == "read")
        assert "token" in happened[last:]  # the answer went on until then
        assert "read read" not in " ".join(happened)
        again = server.ask("POST", "/passages", bodies[0])
        assert (again[0], happened.count("read")) == (201, 8)


def test_the_key_is_asked_for(live_backbone: Backbone, tmp_path: Path) -> None:
    session = reader_session(live_backbone, tmp_path)
    with running(session, api_key="secret") as server:
        for headers in (
            {},
            {"Authorization": "secret"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer secret2"},
            {"Authorization": "Basic secret"},
        ):
            for path in ("/passages", "/v1/models", "/metrics"):
                status, answer, told = server.ask("GET", path, None, headers)
                assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
                assert told["www-authenticate"] == "Bearer"
        key = {"Authorization": "Bearer secret", "Host": "my.host.example"}
        assert server.ask("GET", "/passages", None, key)[0] == 200
        assert server.ask("GET", "/")[0] == server.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "lets other machines in, so an API key is needed"),
        ({"host": "my.host.example"}, "lets other machines in"),
        ({"host": "::"}, "lets other machines in"),
        ({"api_key": " "}, "api_key must be a plain ASCII text"),
        ({"port": 70_000}, "port must be in 0"),
        ({"port": "80"}, "port must be a whole number"),
        ({"max_batch": 0}, "max_batch must be positive"),
        ({"max_body": -1}, "max_body must be positive"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingValueError, match=words):
        ServerSettings(**settings)


def test_local_addresses_need_no_key() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert ServerSettings(host=host).is_local
    assert not ServerSettings(host="0.0.0.0", api_key="k").is_local


def test_those_who_leave_the_queue_give_their_places_to_others(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand behind one who waits on; some ask for a stream, and some for a whole answer."""
    held = Held(monkeypatch)
    with running(reader_session(live_backbone, tmp_path), max_batch=2, max_queue=5) as server:
        threads, results = in_threads(2, lambda: server.chat(QUESTION))
        until(lambda: sum(server.engine.load) == 2)
        more, others = in_threads(1, lambda: server.chat(QUESTION))
        until(lambda: sum(server.engine.load) == 3)
        waiting = server.engine.load[0]
        gone = [server.send(QUESTION, stream=number % 2 == 0) for number in range(5 - waiting)]
        until(lambda: server.engine.load[0] == 5)
        assert server.chat(QUESTION)[0] == 429
        for one in gone:
            one.close()
        until(lambda: sum(job.is_dropped for job in server.engine._waiting) == len(gone))
        again, later = in_threads(1, lambda: server.chat(QUESTION))
        until(lambda: server.engine.load[0] == waiting + 1)
        held.gate.set()
        for thread in [*threads, *more, *again]:
            thread.join()
        assert [status for status, _ in [*results, *others, *later]] == [200] * 4


def test_a_fault_at_a_question_does_not_end_the_thread(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(reader_session(live_backbone, tmp_path)) as server:
        with monkeypatch.context() as patch:
            patch.setattr("live.session.KnowledgeSession.check", lambda *_: 1 / 0)
            assert server.chat(QUESTION)[0] == 500
        assert server.chat(QUESTION)[0] == 200


def test_changes_wait_in_a_queue_with_an_end_too(
    live_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    with running(reader_session(live_backbone, tmp_path), max_queue=2) as server:
        asking, _ = in_threads(1, lambda: server.chat(QUESTION))
        until(lambda: server.engine.load == (0, 1))
        body = {"passages": [{"text": "New."}]}
        threads, results = in_threads(2, lambda: server.ask("POST", "/passages", body)[0])
        until(lambda: len(server.engine._calls) == 2)
        status, answer, headers = server.ask("POST", "/passages", body)
        assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "queue_full", "1")
        held.gate.set()
        for thread in [*asking, *threads]:
            thread.join()
        assert results == [201, 201]
