"""The command runs one method, or several on one stream, and reports them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from genpoe.commands.sequential_edit import (
    StreamSource,
    make_stream,
    sequential_edit,
    with_entities,
)
from genpoe.commands.sequential_report import sequential_report
from genpoe.editors.material import FactSet
from genpoe.editors.parts.facts import Fact
from genpoe.sequential.stream import StreamSettings
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import write_jsonl
from qa.data.bios import generate
from qa.data.dataset import SentenceStart
from retrieval.passage import Passage
from tests.helpers.small_world import BIOS
from tests.helpers.tiny import make_backbone, save_backbone
from tests.test_conf import composed

SMALL = (
    *BIOS,
    *("data.test_entities=5", "edits=4", "batch=2", "pairs=2", "cell=1", "final=1", "rag_cell=1"),
    *("locality=2", "health=1", "max_new_tokens=2", "rag=false", "backbone.dtype=float32"),
)
LAYERS = "editor.recipes.tuned.layers=[0,1]"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    backbone = make_backbone(max_position_embeddings=4096)
    return save_backbone(backbone, tmp_path_factory.mktemp("model"))


def run(model: Path, out: Path, *overrides: str) -> dict[str, Any]:
    given = [*SMALL, f"backbone.name={model}", *overrides]
    config = composed("sequential_edit", *given, f"paths.output_dir={out}")
    return sequential_edit(config, given)


def test_the_contract_of_an_editors_run(model, tmp_path):
    metrics = run(model, tmp_path, "method=ultraedit", LAYERS)
    for what in ("before", "immediate", "final", "forgetting"):
        for score in ("em", "f1", "nll"):
            assert isinstance(metrics[f"{what}/{score}"], float)
    assert 0 <= metrics["locality"] <= 100
    assert metrics["state_hash/before"] == metrics["state_hash/restored"]
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    with (tmp_path / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["state"], row["batch"]) for row in rows} == {
        (str(i), str(j)) for i in range(3) for j in (1, 2)
    }
    assert {"em", "f1", "n"} <= rows[0].keys()
    assert (tmp_path / "heatmap.png").is_file()
    with pytest.raises(SettingValueError, match="was made with another method"):
        run(model, tmp_path, "method=none")


def test_all_methods_of_a_figure_on_one_stream(model, tmp_path, caplog):
    """The experiment composes each of its methods; one without its checkpoint is left out."""
    given = [*SMALL, f"backbone.name={model}", "experiment=genpoe/figure5_bios"]
    given.append(f"paths.log_dir={tmp_path}")
    config = composed("sequential_edit", *given, f"paths.output_dir={tmp_path}")
    config.compare = {
        "none": ["method=none"],
        "ultra": ["method=ultraedit", LAYERS],
        "genpoe": [*config.compare.genpoe],
    }
    metrics = sequential_edit(config, given)
    assert "genpoe is left out: there is no" in caplog.text
    assert metrics["none/state_hash/before"] == metrics["ultra/state_hash/before"]
    assert metrics["none/headline/em"] == 0
    assert (tmp_path / "table.md").is_file()
    folders = [str(tmp_path / "methods" / name) for name in ("ultra", "none")]
    config = composed(
        "sequential_report", f"runs=[{','.join(folders)}]", f"paths.output_dir={tmp_path / 'two'}"
    )
    again = sequential_report(config)
    assert again["ultra/final/nll"] == metrics["ultra/final/nll"]
    config.labels = ["a", "a"]
    with pytest.raises(SettingValueError, match="a label of its own for each of 2 runs"):
        sequential_report(config)
    config.runs = []
    with pytest.raises(SettingValueError, match="expected at least one run, got none"):
        sequential_report(config)


@pytest.mark.slow
def test_rag_beside_an_editor(model, tmp_path):
    """With rag=true the same edited model is also asked with passages that are found."""
    metrics = run(model, tmp_path, "method=ultraedit", LAYERS, "rag=true")
    assert {"final/em", "rag/final/em", "rag/before/nll", "rag/router/recall"} <= metrics.keys()
    assert metrics["rag/router/recall"] == 100
    assert (tmp_path / "matrix_rag.csv").is_file()


def test_a_set_of_facts_makes_a_stream_of_facts():
    passage = Passage("a", "", "Tova Blick was born in Lisbon")
    asked = SentenceStart("a", "Tova Blick was born in", ("Lisbon",), ("a",))
    fact = Fact("a", asked.prompt(), "Lisbon", "Tova Blick", passage_id="a")
    data = FactSet("set", {"a": passage}, {"test": [asked]}, {"test": [fact]}, {})
    made = make_stream(data, StreamSource("test", None), StreamSettings(edits=1, batch=1))
    assert [(e.asked, e.facts, e.passage) for e in made.edits] == [(asked, (fact,), passage)]


def test_facts_of_a_file_make_a_stream(tmp_path):
    data = generate(train_entities=2, dev_entities=2, distractor_entities=2, test_entities=2)
    row = {"question": "Who?", "target": "x"}
    ids = {q.passage_ids[0] for q in data.split("test")}
    write_jsonl(tmp_path / "facts.jsonl", [{**row, "id": id, "passage_id": id} for id in ids])
    source = StreamSource("test", str(tmp_path / "facts.jsonl"))
    made = make_stream(data, source, StreamSettings(edits=2, batch=1))
    assert {edit.facts[0].id for edit in made.edits} == ids


def test_entities_are_made_for_all_edits():
    data = OmegaConf.create({"test_entities": 150, "seed": 0})
    assert with_entities(data, "test", 600) == {"test_entities": 600, "seed": 0}
    assert data.test_entities == 150
    for split, edits in (("test", 150), ("dev", 600)):
        assert with_entities(data, split, edits) == data
    assert with_entities(OmegaConf.create({"dir": "x"}), "test", 600) == {"dir": "x"}
