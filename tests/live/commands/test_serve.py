"""``scripts/serve.py``: what it opens, and what a kill leaves."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from backbone.loading import load_backbone
from backbone.model import Backbone
from live.commands.serve import open_session, server_settings
from live.session import KnowledgeSession
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import write_jsonl
from tests.helpers.live import PASSAGES, QUESTION, expert_bank, reader_checkpoint
from tests.helpers.small_world import composed

ROOT = Path(__file__).parents[3]
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))


@pytest.fixture(scope="module")
def tiny(model: Path) -> Backbone:
    return load_backbone(str(model), dtype="float32")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"id": f"c{n}", "title": p.title, "text": p.text} for n, p in enumerate(PASSAGES)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    return tmp_path / "corpus.jsonl"


def config_of(tmp_path: Path, overrides: Sequence[str]) -> DictConfig:
    given = [*overrides, f"paths.output_dir={tmp_path}", f"paths.cache_dir={tmp_path / 'cache'}"]
    config: DictConfig = composed("serve", given)
    return config


def test_a_new_session_begins_with_a_corpus(tiny: Backbone, corpus: Path, tmp_path: Path) -> None:
    checkpoint = reader_checkpoint(tiny, tmp_path)
    given = [
        f"ckpt_path={checkpoint}",
        f"corpus.path={corpus}",
        f"passages_dir={tmp_path / 'kept'}",
    ]
    config = config_of(tmp_path, given)
    with open_session(config, tiny) as session:
        assert [each.title for each in session.passages.values()] == [p.title for p in PASSAGES]
        assert session.settings.trigger == "first"
        assert session.ask(QUESTION).experts[0].title == "Tova Blick"
        session.remove([next(iter(session.passages))])
    with open_session(config, tiny) as session:  # what was removed does not come back
        assert len(session.passages) == len(PASSAGES) - 1


def test_dmoe_takes_its_bank_and_its_surrogates(
    tiny: Backbone, corpus: Path, tmp_path: Path
) -> None:
    bank = expert_bank(tiny, tmp_path, PASSAGES[:4])
    rows = [{"id": p.id, "title": p.title, "text": f"zebra {p.title}"} for p in PASSAGES]
    write_jsonl(tmp_path / "surrogates.jsonl", rows)
    given = ["method=dmoe", f"bank.dir={bank}", f"corpus.path={corpus}", "trigger.threshold=0.0"]
    session = open_session(config_of(tmp_path, given), tiny)
    assert len(session.passages) == 4
    assert (session.settings.trigger, session.settings.threshold) == ("uncertainty", 0.0)
    assert session.ask("zebra").experts == ()
    assert session.ask(QUESTION).experts[0].title == "Tova Blick"
    given += [f"router.corpus.path={tmp_path / 'surrogates.jsonl'}", "k=1"]
    assert len(open_session(config_of(tmp_path, given), tiny).ask("zebra Mia").experts) == 1


def test_dmoe_takes_a_hypernetwork(tiny: Backbone, tmp_path: Path) -> None:
    checkpoint = reader_checkpoint(tiny, tmp_path)
    given = ["method=dmoe", "experts=generated", f"ckpt_path={checkpoint}", "trigger=always"]
    session = open_session(config_of(tmp_path, given), tiny)
    session.add(PASSAGES)
    answer = session.ask(QUESTION)
    assert all(token.triggered for token in answer.tokens)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([], "ckpt_path"),
        (["method=rag"], "method"),
        (["method=base"], "method"),
        (["ckpt_path=x", "method.experts=noise"], "method.experts"),
        (["method=dmoe", "bank.dir=x", "method.fraction=0.5"], "method.fraction"),
        (["method=dmoe", "bank.dir=x", "trigger=never"], "trigger"),
        (["ckpt_path=x", "k=0"], "k"),
        (["ckpt_path=x", "session.temperature=0"], "temperature"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, overrides: list[str], key: str) -> None:
    with pytest.raises(SettingValueError) as error:
        open_session(config_of(tmp_path, overrides))
    assert error.value.key == key


def test_a_session_does_not_begin_with_more_than_it_may_hold(
    tiny: Backbone, corpus: Path, tmp_path: Path
) -> None:
    given = [f"ckpt_path={reader_checkpoint(tiny, tmp_path)}", f"corpus.path={corpus}"]
    kept = tmp_path / "kept"
    given = [*given, f"passages_dir={kept}"]
    full = config_of(tmp_path, [*given, "limits.max_stored=1"])
    with pytest.raises(SettingValueError, match=r"at most 1 passages.*raise limits\.max_stored"):
        open_session(full, tiny)
    assert not kept.exists()
    open_session(config_of(tmp_path, given), tiny).close()
    with open_session(full, tiny) as session:  # what was kept is taken up all the same
        assert len(session.passages) == len(PASSAGES)


def test_the_key_may_stand_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server_settings(config_of(tmp_path, ["port=0"])).api_key is None
    monkeypatch.setenv("GENPOE_API_KEY", "from there")
    assert server_settings(config_of(tmp_path, [])).api_key == "from there"
    assert server_settings(config_of(tmp_path, ["api_key=own"])).api_key == "own"
    monkeypatch.delenv("GENPOE_API_KEY")
    with pytest.raises(SettingValueError, match="lets other machines in"):
        server_settings(config_of(tmp_path, ["host=0.0.0.0"]))


class Process:
    """A server in a process of its own."""

    def __init__(self, model: Path, checkpoint: Path, folder: Path, run: Path) -> None:
        words = [f"ckpt_path={checkpoint}", f"passages_dir={folder}", f"backbone.name={model}"]
        words += ["backbone.dtype=float32", "port=0", f"hydra.run.dir={run}"]
        self.process = subprocess.Popen(
            [sys.executable, "scripts/serve.py", "method=genpoe", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("listening on http://127.0.0.1:"):
                self.port = int(line.rpartition(":")[2])
                return
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def end(self, number: int) -> int:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None
        finally:
            connection.close()


def change_until_killed(server: Process, number: int, kept: dict[str, bool]) -> None:
    """Add and remove passages; note what was acknowledged, and what is uncertain (not noted)."""
    chance = random.Random(number)
    own: list[str] = []
    try:
        for turn in range(10_000):
            if own and chance.random() < 0.3:
                id = own.pop()
                kept.pop(id)
                if server.ask("DELETE", f"/passages/{id}")[0] == 204:
                    kept[id] = False
            else:
                text = f"passage {number} {turn} {chance.random()}"
                status, answer = server.ask("POST", "/passages", {"passages": [{"text": text}]})
                assert status == 201
                own.append(answer["passages"][0]["id"])
                kept[own[-1]] = True
            if turn % 5 == 0:
                messages = [{"role": "user", "content": text}]
                server.ask(
                    "POST", "/v1/chat/completions", {"model": "experts", "messages": messages}
                )
    except (OSError, http.client.HTTPException, ValueError):
        return  # it was killed


@pytest.mark.slow
def test_a_killed_server_comes_back_with_all_that_it_acknowledged(
    model: Path, tiny: Backbone, tmp_path: Path
) -> None:
    checkpoint, folder = reader_checkpoint(tiny, tmp_path), tmp_path / "kept"
    kept: dict[str, bool] = {}
    chance = random.Random(0)
    for round in range(ROUNDS):
        server = Process(model, checkpoint, folder, tmp_path / f"run{round}")
        state = {each["id"] for each in server.ask("GET", "/passages?limit=1000")[1]["passages"]}
        assert [id for id, there in kept.items() if there != (id in state)] == []
        threads = [
            threading.Thread(target=change_until_killed, args=(server, 100 * round + n, kept))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        threading.Event().wait(chance.uniform(0.5, 2))
        server.end(signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert sum(kept.values()) > 2 * ROUNDS
    with KnowledgeSession.load(folder, tiny) as session:
        assert [id for id, there in kept.items() if there != (id in session.passages)] == []


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_ends_well(
    model: Path, tiny: Backbone, tmp_path: Path
) -> None:
    server = Process(model, reader_checkpoint(tiny, tmp_path), tmp_path / "kept", tmp_path / "run")
    added = server.ask("POST", "/passages", {"passages": [{"text": "Tova Blick was there."}]})
    assert added[0] == 201
    assert server.end(signal.SIGTERM) == 0
    with KnowledgeSession.load(tmp_path / "kept", tiny) as session:
        assert len(session.passages) == 1
