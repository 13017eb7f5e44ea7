"""The times of one injection by each method."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate

from backbone.edits import state_hash
from benchmarks import injection_times
from benchmarks.injection_times import BASE, injection_times_suite, quantiles
from plumbing.mounts import SettingValueError
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

SMALL = (
    *("suite=injection_times", "injection.passages=2", "injection.epochs=1", "data.dev_entities=0"),
    *("data.train_entities=4", "data.test_entities=0", "data.unseen_entities=0"),
    *("data.distractor_entities=0", "editors.ultraedit.recipes.tuned.layers=[0,1]"),
    *("editors.grace.recipes.tuned.layer=1", "editors.grace.recipes.tuned.steps=2"),
    *("injection.editors=[ultraedit,grace]", "hypernets.mean.layer=1", "hypernets.mean.rank=2"),
    *("hypernets.mean.hidden_width=8", "hypernets.reader.layer=1", "hypernets.reader.read_layer=1"),
    "hypernets.reader.query_layers=[1]",
)


@pytest.fixture
def backbone(monkeypatch):
    made = make_backbone(max_position_embeddings=2048)
    build = instantiate
    monkeypatch.setattr(
        injection_times,
        "instantiate",
        lambda config: made if "load_backbone" in str(config) else build(config),
    )
    return made


def test_every_method_is_measured_on_every_passage_and_leaves_nothing(backbone):
    before = state_hash(backbone)
    result, lines = injection_times_suite(composed("benchmark", *SMALL))
    assert state_hash(backbone) == before
    assert [name.partition(":")[0] for name in result["seconds"]] == [
        *("GenPoE, mean", "GenPoE, reader", "DMoE", "DMoE", "RAG", "ultraedit", "grace")
    ]
    for name, found in result["seconds"].items():
        if not name.startswith("RAG"):  # a difference
            assert 0 < found["p50"] <= found["p95"], name
    assert len(lines) == 7 + len(result["seconds"])  # the backbone alone injects nothing
    generated = [name for name in result["seconds"] if name.startswith("GenPoE")]
    assert [*result["inference"]] == [BASE, *generated]
    assert all(found["p50"] > 0 for found in result["inference"].values())


def test_the_interval_of_a_median_needs_six_measurements():
    assert quantiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"p50": 3.0, "p95": pytest.approx(4.8)}
    six = quantiles([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert (six["p50_low"], six["p50"], six["p50_high"]) == (1.0, 3.5, 6.0)
    # Of nine, two or more lie on each side of the median with 96.1 %.
    nine = quantiles([float(i) for i in range(1, 10)])
    assert (nine["p50_low"], nine["p50_high"]) == (2.0, 8.0)


def test_too_few_passages(backbone):
    with pytest.raises(SettingValueError, match="needs one training passage more, the data has 4"):
        injection_times_suite(composed("benchmark", *SMALL, "injection.passages=4"))
