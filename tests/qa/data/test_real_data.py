"""A real data set in the documented format; skipped where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plumbing.storage.jsonl import DataError
from qa.data.dataset import check_disjoint, drop_overlap, load_folder
from qa.data.hub import load_named

# An example path; set QA_DATA to a folder that holds `squad/`.
DATA = Path(os.environ.get("QA_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "squad").is_dir(), reason=f"no {DATA / 'squad'}; set QA_DATA")
def test_squad_loads_and_its_overlap_is_found():
    dataset = load_folder(DATA / "squad", "squad")
    assert len(dataset.split("train")) == 87_599
    assert len(dataset.split("dev")) == 5_801
    for question in dataset.split("dev"):
        (passage,) = dataset.gold(question)
        assert question.answers[0] in passage.text
    with pytest.raises(DataError, match="must not overlap"):
        check_disjoint(dataset)
    apart, dropped = drop_overlap(dataset)
    assert 0 < dropped < 50
    check_disjoint(apart)


@pytest.mark.data
@pytest.mark.parametrize("name", ["cwq", "quasart"])
@pytest.mark.skipif(not (DATA / "wiki").is_dir(), reason=f"no {DATA / 'wiki'}; set QA_DATA")
def test_questions_whose_passages_stand_in_the_corpus_load_with_it(name: str):
    wiki = DATA / "wiki" / "passages.jsonl.gz"
    dataset = load_named(name, dir=DATA / name, passages_path=wiki)
    golden = [question for question in dataset.split("dev") if question.passage_ids]
    assert 0 < len(golden) < len(dataset.split("dev"))
    assert all(dataset.gold(question) for question in golden)
    with pytest.raises(DataError, match=r"but the folder has no passages.*passages_path"):
        load_named(name, dir=DATA / name)
