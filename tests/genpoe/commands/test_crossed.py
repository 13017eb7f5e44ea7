"""The crossed control: the prompt and the expert have different passages."""

from __future__ import annotations

import json

import pytest
import torch

from backbone.loading import load_backbone
from genpoe.commands.crossed import crossed
from genpoe.hypernet.mean import MeanSettings
from genpoe.model import GenPoE
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import read_jsonl
from tests.helpers.small_world import BIOS, composed
from tests.helpers.tiny import make_backbone, save_backbone


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    root = tmp_path_factory.mktemp("crossed")
    folder = save_backbone(make_backbone(max_position_embeddings=2048), root / "backbone")
    backbone = load_backbone(str(folder))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hypernet = MeanSettings(layer=1, rank=4, hidden_width=64, embedding_scaling="none").build(
            backbone
        )
        torch.nn.init.normal_(hypernet.linear2.weight, std=0.5)  # as if trained
        torch.nn.init.normal_(hypernet.linear2.bias, std=0.5)
    GenPoE(backbone, hypernet).save(root / "last.ckpt")
    return [
        *(*BIOS, f"backbone.name={folder}", "backbone.dtype=float32", "backbone.device=cpu"),
        *(f"ckpt_path={root / 'last.ckpt'}", "limit=3", "max_new_tokens=2"),
    ]


def test_the_cells_have_the_passages_that_they_say(overrides, tmp_path):
    metrics = crossed(composed("crossed", [*overrides, f"paths.output_dir={tmp_path}"]))
    rows = {
        cell.name: [row for _, row in read_jsonl(cell / "predictions.jsonl")]
        for cell in (tmp_path / "cells").iterdir()
    }
    experts = ("own", "other", "common", "noise", "none")
    assert set(rows) == {f"{prompt}+{expert}" for prompt in ("own", "other") for expert in experts}

    def passages(cell, key):
        return [row[key] for row in rows[cell]]

    own, other = passages("own+own", "passage_ids"), passages("other+other", "passage_ids")
    assert all(a != b for a, b in zip(own, other, strict=True))
    for cell in rows:
        prompt, expert = cell.split("+")
        assert passages(cell, "prompt_passage_ids") == (other if prompt == "other" else own)
        assert passages(cell, "passage_ids") == (other if expert == "other" else own)
    scores = {cell: tuple(row["nll"] for row in rows[cell]) for cell in rows}
    assert len(set(scores.values())) == len(rows)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["own+own/minus/own+none/n"] == metrics["own+own/n"] == 3
    assert "own+common" in (tmp_path / "table.md").read_text()
    assert "own+none, question by question" in (tmp_path / "differences.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rag=false", "got rag=False; leave rag out"),
        ("prompt_passages=gold", "got prompt_passages=gold; leave prompt_passages out"),
        ("method.experts=none", "got method.experts=none; leave method.experts out"),
        ("passages=shuffled", "set passages to gold, retrieved or oracle_negative"),
        ("baseline=rag", "baseline must be one of own"),
    ],
)
def test_settings_that_the_cells_set_are_refused(given, message, overrides, tmp_path):
    config = composed("crossed", [*overrides, f"paths.output_dir={tmp_path}", given])
    with pytest.raises(SettingValueError, match=message):
        crossed(config)
