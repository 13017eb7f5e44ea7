"""suite=serve runs two servers, and sees what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from backbone.loading import load_backbone
from backbone.model import Backbone
from benchmarks.load import Client, Tally, load
from benchmarks.serve import serve_suite
from benchmarks.servers import PlainBatch
from live.answer import Ask
from plumbing.mounts import SettingValueError
from tests.helpers.live import reader_session
from tests.helpers.live_server import Running, running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def backbone(model: Path) -> Backbone:
    return load_backbone(str(model), dtype="float32")


@pytest.fixture
def server(backbone: Backbone, tmp_path: Path) -> Iterator[Running]:
    with running(reader_session(backbone, tmp_path)) as one:
        yield one


def test_plain_transformers_say_what_the_backbone_says(backbone: Backbone, tmp_path: Path) -> None:
    asks = [Ask("Where was Tova Blick born?", "base", 5), Ask("Who?", "base", 9)]
    batch, texts = PlainBatch(backbone, asks), ["", ""]
    while batch.running:
        for each in batch.step():
            texts[each.row] += each.token.text if each.token else ""
    session = reader_session(backbone, tmp_path)
    assert texts == [session.ask(a.question, "base", a.max_new_tokens).text for a in asks]


class Process:
    """Stands in for a process: the server runs in this one."""

    memory = 1.0


def tally_of(server: Running) -> Tally:
    tally = Tally()
    clients = [Client(server.port, number, 4, tally, "experts") for number in range(2)]
    load(Process(), clients, tally, 2)  # type: ignore[arg-type]
    for client in clients:
        client.settle()
        client.close()
    return tally


def test_nothing_is_wrong_and_nothing_lost(server: Running) -> None:
    counts = tally_of(server).counts
    assert min(counts["asked"], counts["added"]) > 0
    assert counts["wrong"] == counts["lost"] == counts["refused"] == 0


def test_wrong_provenance_is_seen(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge = "live.server.app.knowledge_json"
    expert = {"passage_id": "another", "title": "", "weight": 1.0}
    token = {"text": "x", "uncertainty": 0.0, "triggered": True, "experts": [expert]}
    monkeypatch.setattr(knowledge, lambda tokens, shown: {"tokens": [token] * len(tokens)})
    assert tally_of(server).counts["wrong"] > 0


def test_a_lost_passage_is_seen(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live.session.KnowledgeSession.remove", lambda self, ids: None)
    tally = Tally()
    client = Client(server.port, 0, 4, tally, "experts")
    client._add()
    client._remove()
    client.settle()
    client.close()
    assert tally.counts["lost"] == 1


def config_of(model: Path, output: Path, *overrides: str) -> Any:
    given = [
        *("suite=serve", "rounds=2", "serve.clients=2", "serve.seconds=2", "serve.slices=1"),
        *("serve.rows=2", "serve.tokens=3", "hypernet=reader", "hypernet.layer=1"),
        *("hypernet.read_layer=1", "hypernet.query_layers=[1]", "hypernet.hidden_width=8"),
        *("hypernet.key_width=4", "hypernet.common_rank=2", f"backbone.name={model}"),
        *("backbone.dtype=float32", "data.train_entities=8", "data.dev_entities=2"),
        *("data.test_entities=2", "data.unseen_entities=2", "data.distractor_entities=0"),
        f"paths.output_dir={output}",
        *overrides,
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("benchmark", given)


@pytest.mark.slow
def test_answers_that_are_never_short_are_equal_work(model: Path, tmp_path: Path) -> None:
    result, _ = serve_suite(config_of(model, tmp_path, "serve.full=true"))
    for server in ("experts", "plain"):
        assert result[server]["asked"] * 3 == result[server]["tokens_per_second"] * 2
    assert result["experts"]["wrong"] == result["experts"]["lost"] == 0


@pytest.mark.slow
def test_the_suite_runs(model: Path, tmp_path: Path) -> None:
    result, lines = serve_suite(config_of(model, tmp_path))
    assert result["experts"]["asked"] > 0
    assert result["plain"]["asked"] > 0
    assert result["experts"]["wrong"] == result["experts"]["lost"] == 0
    assert result["experts"]["memory_end"] > 10
    assert result["token"]["rows_2"]["ratio"]["median"] > 0
    assert any(line.startswith("| wrong | 0 |") for line in lines)


def test_wrong_settings_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingValueError, match="clients must be positive"):
        serve_suite(config_of(model, tmp_path, "serve.clients=0"))
