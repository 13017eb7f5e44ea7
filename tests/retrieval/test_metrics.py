"""The accuracy, recall and reciprocal rank of rankings."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.answers import holds_answer
from retrieval.metrics import Judged, accuracy_at, score_rankings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from Pyserini's imports

KS = (1, 2, 3)


def test_by_hand():
    judged = [
        Judged(holds=[False, True, True], gold=[False, False, True], n_gold=2),
        Judged(holds=[True, False], gold=[True, False], n_gold=1),
        Judged(holds=[], gold=[], n_gold=1),  # nothing was found
        Judged(holds=[False, False, False], gold=[False] * 3, n_gold=0),  # no gold passage is known
        Judged(holds=None, gold=[False, True], n_gold=1),  # a yes/no question
    ]
    assert score_rankings(judged, KS) == {
        "accuracy@1": [0, 100, 0, 0],
        "accuracy@2": [100, 100, 0, 0],
        "accuracy@3": [100, 100, 0, 0],
        "recall@1": [0, 100, 0, 0],
        "recall@2": [0, 100, 0, 100],
        "recall@3": [50, 100, 0, 100],
        "mrr": [pytest.approx(1 / 3), 1, 0, 0.5],
    }


def test_what_cannot_be_judged_is_left_out():
    assert score_rankings([Judged(None, [True], 0)], KS) == {}
    assert set(score_rankings([Judged([True], [], 0)], [7])) == {"accuracy@7"}
    assert set(score_rankings([Judged(None, [True], 1)], [7])) == {"recall@7", "mrr"}


@pytest.mark.parametrize("ks", [[], [0], [1, -2]])
def test_cut_offs_are_positive(ks):
    with pytest.raises(ValueError, match=r"expected cut-offs from 1 on, got .*; set ks"):
        score_rankings([], ks)


flags = st.lists(st.booleans(), max_size=8)


@settings(deadline=None)  # other processes may slow it down
@given(st.lists(flags, min_size=1, max_size=6), st.integers(0, 3))
def test_against_definitions_by_sets(rankings, unfound):
    """The same metrics, computed from sets of ranks."""
    judged = [Judged(gold, gold, sum(gold) + unfound) for gold in rankings]
    scores = score_rankings(judged, [1, 3, 8])
    with_gold = [one for one in judged if one.n_gold]
    ranks = [{i + 1 for i, flag in enumerate(gold) if flag} for gold in rankings]
    for k in (1, 3, 8):
        top = set(range(1, k + 1))
        assert scores[f"accuracy@{k}"] == [100 * bool(r & top) for r in ranks]
        found = [len(r & top) / (len(r) + unfound) for r in ranks if len(r) + unfound]
        assert scores.get(f"recall@{k}", []) == pytest.approx([100 * share for share in found])
    best = [1 / min(r) if r else 0.0 for r in ranks if len(r) + unfound]
    assert scores.get("mrr", []) == best
    assert len(best) == len(with_gold)


# Pyserini's command does not close the file that it reads.
@pytest.mark.filterwarnings("ignore:.*retrieval.json:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_accuracy_is_that_of_pyserini(tmp_path, capsys):
    """Runs Pyserini's command on a file in its format."""
    from pyserini.eval.evaluate_dpr_retrieval import evaluate_retrieval

    random = np.random.default_rng(0)
    words = ["Lisbon", "the", "U.S.", "Navy", "3.14", "million", "Beyonc\u00e9", "Beyonce\u0301"]
    lists = [
        [" ".join(random.choice(words, 5)) for _ in range(random.integers(1, 6))] for _ in range(60)
    ]
    answers = [[" ".join(random.choice(words, 2)), "us navy"] for _ in lists]
    retrieval = {
        str(i): {"answers": a, "contexts": [{"text": f"Lisbon the U.S.\n{text}"} for text in texts]}
        for i, (texts, a) in enumerate(zip(lists, answers, strict=True))
    }
    path = tmp_path / "retrieval.json"
    path.write_text(json.dumps(retrieval), encoding="utf-8")
    evaluate_retrieval(str(path), topk=[1, 2, 5])
    printed = re.findall(r"Top(\d+)\taccuracy: (.*)", capsys.readouterr().out)
    theirs = {int(k): float(accuracy) for k, accuracy in printed}
    holds = [
        [holds_answer(text, a) for text in texts] for texts, a in zip(lists, answers, strict=True)
    ]
    for k, accuracy in theirs.items():
        assert np.mean([accuracy_at(h, k) for h in holds]) == pytest.approx(accuracy, abs=1e-4)
    assert 0 < theirs[1] < theirs[2] < theirs[5] < 1
