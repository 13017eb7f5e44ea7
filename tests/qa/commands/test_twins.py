"""The command that asks about both twins: who is right about one, and who about both."""

from __future__ import annotations

import json

import pytest

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError, read_jsonl
from qa.commands import twins
from qa.commands.twins import twins_command
from qa.evaluation.run_folder import read_run
from qa.prompts import encode_passage
from tests.helpers.small_world import composed
from tests.helpers.tiny import make_backbone, save_backbone

DATA = ["data.train_pairs=0", "data.dev_pairs=0", "data.test_pairs=6", "data.pronoun_pairs=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("twins")
    return save_backbone(make_backbone(max_position_embeddings=2048), root / "backbone")


@pytest.fixture
def given(folder, tmp_path):
    return [
        *DATA, "method=base", f"backbone.name={folder}", "backbone.dtype=float32",
        "backbone.device=cpu", "limit=5", f"paths.output_dir={tmp_path}", "max_new_tokens=2",
    ]  # fmt: skip


def test_what_does_not_depend_on_the_passage_is_never_right_about_both(given, tmp_path):
    """The plain model prefers one answer, whatever the passage: right about one of two."""
    metrics = twins_command(composed("twins", given))
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["n"], metrics["other_bag"]) == (5, 0)
    assert (metrics["right"], metrics["right_both"]) == (50, 0)
    assert metrics["right_both_low"] == 0 < metrics["right_both_high"] < 80
    rows = [row for _, row in read_jsonl(tmp_path / "pairs.jsonl")]
    assert len(rows) == 5
    for row in rows:  # each question's own likelihood is its twin's other one
        assert row["nll"] == pytest.approx(row["nll_of_other"][::-1], abs=1e-4)
    assert "right preferred, both" in (tmp_path / "table.md").read_text()


def test_the_shares_are_those_of_the_scores(given, tmp_path, monkeypatch):
    """Against scores that are made up, counted by hand."""
    made = {
        "right": iter([1, 5, 1, 1, 9, 9, 2, 3, 1, 1]),
        "wrong": iter([3, 4, 2, 2, 1, 1] + [4] * 4),
    }
    em = iter([1, 1, 0, 1, 0, 0, 1, 1, 0, 0])
    plain = read_run

    def read(path):
        run = plain(path)
        for line in run.questions.values():
            line.scores["nll"] = float(next(made[path.name]))
            line.scores["em"] = float(next(em)) if path.name == "right" else 0.0
        return run

    monkeypatch.setattr(twins, "read_run", read)
    metrics = twins_command(composed("twins", given))
    found = [metrics[name] for name in ("right", "right_both", "em", "em_both", "nll")]
    assert found == pytest.approx([70, 60, 50, 40, 3.3])


def test_pairs_that_differ_in_their_tokens_are_left_out(given, tmp_path, caplog, monkeypatch):
    plain = encode_passage

    def encoded(tokenizer, passage, limit):
        more = [0] if passage.id == "twins-test-00001a" else []
        return plain(tokenizer, passage, limit) + more

    monkeypatch.setattr(twins, "encode_passage", encoded)
    metrics = twins_command(composed("twins", [*given, "limit=null", "data.test_pairs=2"]))
    assert (metrics["n"], metrics["other_bag"]) == (6, 6)
    assert "6 of 12 pairs are left out" in caplog.text


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("passages=shuffled", SettingValueError, "got passages=shuffled; leave passages out"),
        ("data.test_pairs=0", ValueError, "found no pair"),
        ("split=all", DataError, "no split 'all'"),
        ("limit=0", ValueError, "limit must be"),
    ],
)
def test_a_wrong_setting_is_an_error(given, override, error, message):
    with pytest.raises(error, match=message):
        twins_command(composed("twins", [*given, override]))
