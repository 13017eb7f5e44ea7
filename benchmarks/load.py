"""Clients that ask, add and remove, and the processes of the servers that they load.

Each passage is about a person whom nobody else has, so a client knows which passage must stand
behind an answer, and which must not.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_KEPT = 4  # passages of its own that a client keeps
_SYLLABLES = "ba ce di fo gu ka le mi no pu ra se ti vo zu".split()


@dataclass
class Tally:
    """What clients have seen.

    Attributes:
        first: Seconds from each question to its first token.
        pace: Seconds and tokens behind the first of each answer.
        tokens: Tokens of all answers.
        counts: What happened how often: asked, added, removed, wrong, lost, refused.
        memory: Resident megabytes of the server, once a second.
    """

    first: list[float] = field(default_factory=list)
    pace: list[tuple[float, int]] = field(default_factory=list)
    tokens: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)


class ServerProcess:
    """A server in a process of its own.

    Args:
        words: What the process is told.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        lines: Iterator[str] = iter(self.process.stdout or ())
        heard = next((line for line in lines if line.startswith("listening on ")), None)
        if heard is None:
            raise ValueError(f"the server ended with {self.process.wait()}; see its message above")
        self.port = int(heard.rpartition(":")[2])

    @property
    def memory(self) -> float:
        """Resident megabytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def end(self) -> None:
        """Tell it to stop."""
        self.process.terminate()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def serving(words: Sequence[str]) -> Iterator[ServerProcess]:
    """A server for the duration of a block."""
    server = ServerProcess(words)
    try:
        yield server
    finally:
        server.end()


class Client:
    """Asks, adds and removes, one request after another.

    Args:
        port: The server's.
        number: The client's; its passages are about people of its own.
        tokens: The most tokens of an answer.
        tally: What it sees.
        model: "experts", or "base" to ask alone.
    """

    def __init__(self, port: int, number: int, tokens: int, tally: Tally, model: str) -> None:
        self._port, self._tokens, self._tally, self._model = port, tokens, tally, model
        self._chance = random.Random(f"client {number}")
        self._number, self._made = number, 0
        self._own: dict[str, str] = {}  # names by passage id
        self._gone: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None

    def run(self, until: float) -> None:
        """Go on until a time of `time.monotonic`."""
        while time.monotonic() < until:
            try:
                self._turn()
            except (OSError, http.client.HTTPException, ValueError):
                self._tally.counts["lost"] += 1
                self.close()
        self.close()  # a server may close a connection over which nothing comes for a while

    def settle(self) -> None:
        """Look whether all that was acknowledged is there, and nothing else."""
        for id in [*self._own, *self._gone]:
            status, _ = self._request("GET", f"/passages/{id}")
            self._tally.counts["lost"] += status != (200 if id in self._own else 404)

    def close(self) -> None:
        """Leave the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _turn(self) -> None:
        draw = self._chance.random()
        if self._model == "base":
            self._ask(self._name(), "")
        elif not self._own or (draw < 0.15 and len(self._own) < _KEPT):
            self._add()
        elif draw < 0.25:
            self._remove()
        elif draw < 0.3 and self._gone:
            id, name = self._chance.choice(list(self._gone.items()))
            self._ask(name, "", without=id)
        else:
            id, name = self._chance.choice(list(self._own.items()))
            self._ask(name, id)

    def _name(self) -> str:
        """A name that nobody else has."""
        self._made += 1
        parts = [self._chance.choice(_SYLLABLES) for _ in range(3)]
        return f"{''.join(parts)}{self._number}x{self._made}".capitalize()

    def _add(self) -> None:
        name = self._name()
        born = self._chance.choice(("Lisbon", "Bergen", "Turin", "Leeds", "Cork", "Graz"))
        text = f"{name} was born in {born}. {name} later worked as a surgeon by the sea."
        status, answer = self._request("POST", "/passages", {"passages": [{"text": text}]})
        if status != 201:
            self._tally.counts["lost"] += 1
            return
        self._tally.counts["added"] += 1
        self._own[answer["passages"][0]["id"]] = name

    def _remove(self) -> None:
        id = self._chance.choice(list(self._own))
        status, _ = self._request("DELETE", f"/passages/{id}")
        if status != 204:
            self._tally.counts["lost"] += 1
            return
        self._tally.counts["removed"] += 1
        self._gone = {id: self._own.pop(id)}

    def _ask(self, name: str, id: str, without: str = "") -> None:
        messages = [{"role": "user", "content": f"Where was {name} born?"}]
        body = {"model": self._model, "messages": messages, "max_tokens": self._tokens}
        begun = time.monotonic()
        answer = self._open("POST", "/v1/chat/completions", {**body, "stream": True})
        if answer.status != 200:
            answer.read()
            self._tally.counts["refused" if answer.status == 429 else "lost"] += 1
            time.sleep(0.2)
            return
        times, ids, is_done = [], [], False
        for line in answer:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                for token in chunk["knowledge"]["tokens"]:
                    times.append(time.monotonic())
                    ids.append([expert["passage_id"] for expert in token["experts"]])
            is_done = is_done or line.startswith(b"data: [DONE]")
        if not is_done:
            raise ValueError("the answer was cut short")
        self._note(begun, times, ids, id, without)

    def _note(
        self, begun: float, times: list[float], ids: list[list[str]], id: str, without: str
    ) -> None:
        tally = self._tally
        tally.counts["asked"] += 1
        tally.tokens += len(times)
        if times:
            tally.first.append(times[0] - begun)
            tally.pace.append((times[-1] - times[0], len(times) - 1))
        if (id and (not ids or any(found[:1] != [id] for found in ids))) or any(
            without in found for found in ids if without
        ):
            tally.counts["wrong"] += 1

    def _request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self._open(method, path, body)
        content = answer.read()
        return answer.status, json.loads(content) if content else None

    def _open(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        sent = None if body is None else json.dumps(body)
        self._connection.request(method, path, sent, {"Content-Type": "application/json"})
        return self._connection.getresponse()


def load(server: ServerProcess, clients: Sequence[Client], tally: Tally, seconds: float) -> None:
    """Let all clients run for some time."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        tally.memory.append(server.memory)
    for thread in threads:
        thread.join()
