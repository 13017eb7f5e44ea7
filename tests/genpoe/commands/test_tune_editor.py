"""Trials of an editor's settings."""

from __future__ import annotations

import pytest

from backbone.edits import state_hash
from genpoe.commands import tune_editor
from genpoe.commands.tune_editor import combinations, merged, tune
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import read_jsonl
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

SMALL = (
    *("edits=4", "data.train_entities=8", "data.dev_entities=0", "data.test_entities=0"),
    *("data.unseen_entities=0", "data.distractor_entities=0"),
)


def small(tmp_path, *overrides):
    return composed("tune_editor", *SMALL, f"paths.output_dir={tmp_path}", *overrides)


def test_every_editor_has_as_many_trials():
    trials = composed("tune_editor").trials
    assert {len(combinations(grid)) for grid in trials.values()} == {6}
    for name, grid in trials.items():
        recipe = composed("tune_editor", f"editor={name}").editor.recipes.tuned
        for changes in combinations(grid):
            made = merged(recipe, changes)  # no setting that is not there
            assert made.keys() == recipe.keys()
            assert made.get("value", {}).keys() == recipe.get("value", {}).keys()


def test_the_best_trial_is_chosen_and_a_stopped_search_goes_on(tmp_path, no_sync, monkeypatch):
    backbone = make_backbone(max_position_embeddings=2048)
    before = state_hash(backbone)
    grid = "trials.ultraedit={eta:[1.0e-6,1.0e-2],layers:[[0,1]]}"
    config = small(tmp_path, grid)
    metrics = tune(config, backbone)
    assert state_hash(backbone) == before
    rows = [row for _, row in read_jsonl(tmp_path / "trials.jsonl")]
    assert [row["settings"]["eta"] for row in rows] == [1e-6, 1e-2]
    tiny, large = rows
    for name in ("reliability", "generality", "locality"):
        assert tiny[name] == pytest.approx(metrics[f"before/{name}"], abs=0.02)
    assert large["reliability"] < tiny["reliability"]
    rise = max(0.0, large["locality"] - metrics["before/locality"])
    assert large["score"] == pytest.approx(large["reliability"] + large["generality"] + rise)
    assert metrics["best/score"] == min(row["score"] for row in rows)
    assert (metrics["trials"], metrics["edits"]) == (2, 4)
    monkeypatch.setattr(tune_editor, "_trial", None)  # nothing is tried again
    assert tune(config, backbone) == metrics


def test_a_trial_that_fails_is_worst_and_says_why(tmp_path, no_sync):
    backbone = make_backbone(max_position_embeddings=2048)
    before = state_hash(backbone)
    tune(small(tmp_path, "trials.ultraedit={eta:[1.0e-3,1.0e+300],layers:[[0,1]]}"), backbone)
    good, bad = (row for _, row in read_jsonl(tmp_path / "trials.jsonl"))
    assert bad["score"] > 1e5 > good["score"]
    assert "is not finite" in bad["problem"]
    assert good["problem"] == ""
    assert state_hash(backbone) == before


def test_bad_settings(tmp_path):
    with pytest.raises(SettingValueError, match=r"batches must be in 1\.\.edits=4, got 5"):
        tune(small(tmp_path, "batches=5"))
