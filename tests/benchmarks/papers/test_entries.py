"""Every entry of ``conf/papers`` is well-formed, and its commands compose at every size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks.papers import entries
from benchmarks.papers.cells import Cell, minutes_of, places
from benchmarks.papers.entries import OWN, read_entry, targets
from benchmarks.papers.reproduce import plan
from plumbing.storage.jsonl import DataError
from tests.helpers.small_world import CONF, composed

SIZES = sorted(path.stem for path in (CONF / "size").glob("*.yaml"))
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}


def size_of(name: str) -> Any:
    config = composed("reproduce", [f"size={name}", "target=all", "data_root=ROOT"])
    return OmegaConf.create(OmegaConf.to_container(config.size, resolve=True))


def every_cell(size: str) -> Iterator[Cell]:
    for each in plan(targets(), size_of(size)):
        yield from each.cells.values()


def test_there_are_sizes_and_targets() -> None:
    assert {"small", "night", "paper"} >= set(SIZES) >= {"small"}
    assert targets()[0] == "genpoe/table1"
    assert all(re.fullmatch(r"(genpoe|dmoe)/\w+", target) for target in targets())


def test_experts_are_not_asked_what_they_were_trained_on() -> None:
    cells = [cell for cell in every_cell("small") if cell.script in ("evaluate", "ablation")]
    learnt = [cell for cell in cells if any(n.script == "augment" for n in cell.all_needs())]
    assert learnt
    for cell in learnt:
        assert "split=test_rephrased" in cell.words, cell.name


def test_claims_are_on_the_side_of_the_paper_for_each_data_set() -> None:
    for size in SIZES:
        for claim in read_entry("dmoe/table7", size_of(size)).claims:
            for one in claim.better.get("data", []):
                dense = one in ("StrategyQA", "HotpotQA")
                assert claim.better["router"] == (["dense"] if dense else ["BM25"])
    entry = read_entry("dmoe/b1", size_of("small"))
    named = dict(zip([each.name for each in entry.metrics], *entry.paper.values(), strict=True))
    assert named["storage/PEFT"] == 481
    assert named["storage/bank"] is None


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("size", SIZES)
def test_an_entry_has_cells_and_each_claim_names_some(size: str, target: str) -> None:
    entry = read_entry(target, size_of(size))
    found = places(entry, size_of(size))
    assert any(place.cell is not None for place in found)
    for labels in entry.paper:
        assert len(labels) == len(entry.paper_axes)
    assert entry.title.lower().startswith(target.partition("/")[0])


def with_all_words(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Cells in which every word of every script occurs, and every choice beside every setting.

    The data and the backbone are left out of the latter, since all commands take them alike.
    """
    seen: set[object] = set()
    for cell in cells:
        words = {word for word in cell.words if not re.fullmatch(r"<\w+>", word)}
        names = {word.partition("=")[0]: word for word in words}
        choices = {word for name, word in names.items() if name in GROUPS - {"data", "backbone"}}
        alike = (cell.script, frozenset(choices), frozenset(names))
        found = {alike} | {(cell.script, word) for word in words}
        if found - seen:
            seen |= found
            yield cell


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_command_composes(size: str) -> None:
    cells = list(with_all_words(every_cell(size)))
    assert cells
    for cell in cells:
        words = [word for word in cell.words if not re.fullmatch(r"<\w+>", word)]
        words = [re.sub(r"<\w+#[^>]+>", "0.5", word) for word in words]
        words = [re.sub(r"<(\w+)>", r"\1", word) for word in words]
        config = composed(cell.script, [*words, "paths.output_dir=out"])
        assert config.task_name == cell.script, cell


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_with_passages_is_that_of_rag(size: str) -> None:
    for cell in every_cell(size):
        if cell.script == "evaluate":
            named = {word.partition("=")[0] for word in cell.words}
            assert len(named) == len(cell.words), cell
            assert not {"method=rag", "rag=false"} <= set(cell.words), cell
            assert not {"method=base", "rag=true"} <= set(cell.words), cell


@pytest.mark.parametrize("size", ["small"])
def test_every_cell_of_the_small_size_has_an_estimate(size: str) -> None:
    cells = {cell.key: cell for cell in every_cell(size)}
    assert [cell.name for cell in cells.values() if cell.minutes is None] == []
    assert sum(cell.minutes or 0 for cell in cells.values()) < 90


def test_the_estimate_with_the_most_words_counts() -> None:
    costs = {"evaluate": 1.0, "evaluate rag=true": 2.0, "evaluate method=memit": 9.0}
    assert minutes_of("evaluate", ["k=1"], costs) == 1
    assert minutes_of("evaluate", ["rag=true", "k=1"], costs) == 2
    assert minutes_of("evaluate", ["method=memit"], costs) == 9
    assert minutes_of("augment", [], costs) is None


ENTRY = """
title: "GenPoE, Table 9: a trial"
script: evaluate
overrides: ["limit=${size.limit}", "${size.stack}"]
axes:
  data: ${size.data}
  k: {one: {as: 1, cell: [k=1]}, two: {as: 2, cell: [k=2], bank: [expert.rank=2]}, three: null}
rows: [k]
metrics: {"em@{k}": {heading: EM, decimals: 2}}
paper:
  axes: [k, data]
  reference: {data: NQ}
  values: {one: {NQ: [1.5]}}
claims:
  - {says: more is better, better: {k: two}, than: {k: one}}
"""
SIZE = """
limit: 3
stack: [retriever=bm25, "bank.dir=<bank>/bank"]
data: {bios: [data=bios], NQ: [data=nq]}
parts: {bank: {script: build_experts, overrides: ["bank.dir=<self>/bank"], takes: [data]}}
minutes: {evaluate: 1}
"""


def as_size(text: str) -> Any:
    return OmegaConf.create(text)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "genpoe/table9.yaml"
    path.parent.mkdir()
    path.write_text(ENTRY)
    monkeypatch.setattr(entries, "ENTRIES", tmp_path)
    return path


@pytest.mark.usefixtures("written")
def test_an_entry_is_read() -> None:
    size = as_size(SIZE)
    entry = read_entry("genpoe/table9", size)
    assert entry.overrides == ["limit=3", "retriever=bm25", "bank.dir=<bank>/bank"]
    one, two, three, *_ = found = places(entry, size)
    assert len(found) == 6
    assert three.cell is None
    assert one.cell is not None
    assert two.cell is not None
    assert one.cell.words == (*entry.overrides, "data=bios", "k=1")
    assert one.metric("em@{k}") == "em@1"
    assert two.options["k"].overrides == {OWN: ["k=2"], "bank": ["expert.rank=2"]}
    assert one.cell.needs["bank"].words == ("bank.dir=<self>/bank", "data=bios")
    assert two.cell.needs["bank"].words[-1] == "expert.rank=2"
    assert one.cell.needs["bank"].key != two.cell.needs["bank"].key
    metric = entry.metrics[0]
    assert entry.papers({"data": "bios", "k": "one"}, metric) == (1.5, "NQ")
    assert entry.papers({"data": "NQ", "k": "one"}, metric) == (1.5, "")
    assert entry.papers({"data": "NQ", "k": "two"}, metric) == (None, "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k: two}, than", "k: four}, than", r"k has no \['four'\]"),
        ("rows: [k]", "rows: [m]", "'m'"),
        ("[1.5]", "[1.5, 2]", "has 2 of 1 metrics"),
        ("${size.stack}", "${stick}", "stick"),
        ("title:", "titel:", "'title'"),
    ],
)
def test_a_faulty_entry_is_an_error_that_names_the_file(
    written: Path, old: str, new: str, message: str
) -> None:
    written.write_text(ENTRY.replace(old, new))
    with pytest.raises(DataError, match=message) as error:
        read_entry("genpoe/table9", as_size(SIZE))
    assert str(written) in str(error.value)


@pytest.mark.usefixtures("written")
def test_an_unknown_part_or_target_is_an_error() -> None:
    size = as_size(SIZE.replace("{bank:", "{bunk:"))
    with pytest.raises(DataError, match="needs the part 'bank', and the size has only bunk"):
        places(read_entry("genpoe/table9", size), size)
    with pytest.raises(DataError, match="target must be one of list, all, genpoe/table9, got 'x'"):
        read_entry("x", size)
