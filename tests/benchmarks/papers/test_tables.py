"""Tables, figures and pages of cells that were measured, failed, or never run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks.papers import entries, pages, runner
from benchmarks.papers.cases import alone_right
from benchmarks.papers.cells import places
from benchmarks.papers.claims import verdicts
from benchmarks.papers.entries import read_entry
from benchmarks.papers.pages import write_page, write_what_holds
from benchmarks.papers.results import read_result
from benchmarks.papers.tables import (
    FIGURE,
    METRICS,
    SHEET,
    TABLE,
    Target,
    page,
    write_target,
)

ENTRY = """
title: "GenPoE, Table 9: a trial"
script: evaluate
axes:
  data: {bios: [data=bios]}
  prompt: {W/o RAG: [rag=false], RAG: [rag=true]}
  method: {Base: [method=base], GenPoE: [method=genpoe], MEMIT: [method=memit]}
rows: [method]
metrics: {em: {}}
paper:
  axes: [method, prompt, data]
  reference: {data: NQ}
  values: {Base: {W/o RAG: {NQ: [7.8]}}, GenPoE: {W/o RAG: {NQ: [33.6]}}}
claims:
  - says: GenPoE is better
    better: {method: GenPoE}
    than: {method: [Base, MEMIT]}
    where: {prompt: W/o RAG}
note: A note.
cases: {prompt: [W/o RAG]}
"""
SIZE = OmegaConf.create({"parts": {}, "minutes": {}})


def measured(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """All cells without RAG but MEMIT's have a result."""
    path = tmp_path / "conf/genpoe/table9.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(ENTRY)
    monkeypatch.setattr(entries, "ENTRIES", tmp_path / "conf")
    entry = read_entry("genpoe/table9", SIZE)
    found = places(entry, SIZE)
    right = {"Base": [0] * 18 + [1, 0], "GenPoE": [1] * 18 + [0, 0]}
    for place in found:
        labels, cell = place.labels, place.cell
        if labels["prompt"] == "RAG" or labels["method"] == "MEMIT" or cell is None:
            continue
        folder = root / cell.folder_name
        folder.mkdir(parents=True)
        em = right[labels["method"]]
        rows = [
            {"id": f"q{i}", "question": f"Who | {i}?", "answers": ["Ann"], "gold_ids": [f"p{i}"]}
            | {"prediction": labels["method"], "em": one, "f1": one, "nll": 1.0}
            for i, one in enumerate(em)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "predictions.jsonl").write_text(lines)
        (folder / "made_with.json").write_text('{"fingerprint": "abc", "prompt": "P"}')
        value = 100 * sum(em) / len(em)
        metrics = {"em": value, "em_low": value - 5, "em_high": value + 5, "n": 20}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        record: Any = {"script": "evaluate", "overrides": list(cell.words), "commit": "c0ffee"}
        record |= {"seconds": 2.0, "key": cell.key, "needs": {}, "started": "2026-01-01"}
        (folder / runner.RECORD).write_text(json.dumps(record))
    results = [read_result(place, root) for place in found]
    return Target(entry, "small", "A trial.", results, verdicts(entry, results))


def test_a_table_has_what_was_run_and_leaves_the_rest_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = measured(tmp_path / "cells", tmp_path, monkeypatch)
    folder = tmp_path / "out"
    metrics = write_target(target, folder)
    page = (folder / TABLE).read_text()
    assert "| method | EM, W/o RAG | paper | EM, RAG | paper |" in page
    assert "| Base | 5.0 (0.0–10.0) | 7.8 |  |  |" in page
    assert "| GenPoE | 90.0 (85.0–95.0) | 33.6 |  |  |" in page
    assert "| MEMIT |  |  |  |  |" in page
    assert "its number is that of NQ" in page
    assert "2 of 6 cells were run" in page
    assert "Not all cells were asked" not in page
    assert metrics["bios/W/o RAG/GenPoE/em"] == 90
    assert not any("MEMIT" in key or "/RAG/" in key for key in metrics)
    assert json.loads((folder / METRICS).read_text()) == metrics
    rows = list(csv.DictReader((folder / SHEET).read_text().splitlines()))
    assert len(rows) == 6
    assert [row["value"] for row in rows] == ["5.0", "90.0", "", "", "", ""]
    assert json.loads(rows[0]["hashes"])["model"] == "abc"
    assert rows[0]["commit"] == "c0ffee"
    assert rows[2]["command"] == ""
    assert (folder / FIGURE).read_bytes()[:4] == b"\x89PNG"
    holds, missing = metrics["claims"]
    assert (holds["verdict"], holds["n"], holds["difference"]) == ("holds", 20, 85)
    assert holds["paper"] == pytest.approx(25.8)
    assert missing["verdict"] == "not run"


def test_a_table_says_which_cells_were_asked_fewer_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = measured(tmp_path / "cells", tmp_path, monkeypatch)
    fewer = [
        replace(each, metrics={**each.metrics, "n": 8})
        if each.place.labels["method"] == "GenPoE" and each.folder is not None
        else each
        for each in target.results
    ]
    assert "20 questions, but 8: W/o RAG GenPoE." in page(replace(target, results=fewer))


def test_cases_are_those_that_one_method_alone_has_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = measured(tmp_path / "cells", tmp_path, monkeypatch)
    write_target(target, tmp_path / "out")
    page = (tmp_path / "out" / TABLE).read_text()
    assert "| W/o RAG, GenPoE | 18 |" in page
    assert "| W/o RAG, Base | 1 |" in page
    assert "**Who \\| 0?** (Ann; `q0`)" in page
    lines: Any = {
        "a": {"1": {"em": 1}, "2": {"em": 1}, "3": {"em": 0.5}, "4": {"em": 1}},
        "b": {"1": {"em": 1}, "2": {"em": 0}, "3": {"em": 1}},
    }
    assert alone_right(lines) == {"a": ["2"], "b": ["3"]}
    assert alone_right({}) == {}


def test_pages_say_first_what_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = measured(tmp_path / "cells", tmp_path, monkeypatch)
    made, docs = tmp_path / "out", tmp_path / "docs"
    write_target(target, made)
    page = write_page(target, made, docs)
    assert page == docs / "small/genpoe/table9.md"
    assert "](table9.png)" in page.read_text()
    metrics = json.loads((made / METRICS).read_text())
    metrics["size"] = "night"
    metrics["claims"][0]["verdict"] = "does not hold"
    (docs / "night/genpoe").mkdir(parents=True)
    (docs / "night/genpoe/table9.json").write_text(json.dumps(metrics))
    text = write_what_holds(docs).read_text()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## Does not hold", "## Holds", "## Not run"]
    assert "| holds | 0 | 1 |" in text
    assert "| does not hold | 1 | 0 |" in text
    assert "GenPoE over Base in EM (bios, W/o RAG)" in text
    assert "[genpoe/table9](small/genpoe/table9.md)" in text
    assert "## Ours" not in text
    metrics["claims"] = [{**claim, "ours": True} for claim in metrics["claims"]]
    (docs / "night/genpoe/table9.json").write_text(json.dumps(metrics))
    text = write_what_holds(docs).read_text()
    assert "## Does not hold" not in text
    assert "of the papers, `size=small` | ours, `size=night`" in text
    assert "| does not hold | [genpoe/table9](night/genpoe/table9.md)" in text.split("## Ours")[1]
    assert write_what_holds(docs) == docs / pages.WHAT_HOLDS


def test_a_target_without_a_result_has_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = measured(tmp_path / "cells", tmp_path, monkeypatch)
    empty = [read_result(result.place, tmp_path / "nothing") for result in target.results]
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / FIGURE).write_text("an old one")
    nothing = Target(target.entry, "small", "A trial.", empty, [])
    metrics = write_target(nothing, folder)
    assert not (folder / FIGURE).exists()
    assert "No cell was run." in (folder / TABLE).read_text()
    assert [cell for cell in metrics["cells"] if "command" in cell] == []
