"""Covariances by definition, their file, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from genpoe.editors.parts.covariance import Covariances, StatisticsError, measure_covariances
from genpoe.editors.parts.places import find_places, read_inputs
from genpoe.editors.parts.rows import make_rows
from plumbing.storage.manifest import FolderError
from tests.helpers.taught import texts
from tests.helpers.tiny import make_backbone


def test_a_covariance_is_the_mean_over_all_tokens(tiny_backbone):
    some = texts(9)
    found = measure_covariances(tiny_backbone, [0, 1], some, max_tokens=30, fewest=1)
    assert found.tokens == 9 * 30
    for place in find_places(tiny_backbone, [0, 1]):
        keys = []
        for text in some:  # one by one, without padding
            ids = tiny_backbone.tokenizer(text)["input_ids"][:30]
            rows = make_rows(tiny_backbone, [ids], [[]])
            keys.append(read_inputs(tiny_backbone, [place], rows)[place][0].double())
        joint = torch.cat(keys)
        assert found.of(place.layer).dtype == torch.float64
        assert torch.allclose(found.of(place.layer), joint.T @ joint / len(joint), atol=1e-6)
        gates = found.gates[place.layer]
        one, other = torch.cat(keys[::2]), torch.cat(keys[1::2])
        apart = (one.T @ one / len(one) - other.T @ other / len(other)).norm()
        assert gates.split_half == pytest.approx(float(apart / found.of(place.layer).norm()), 1e-4)
        assert 0 < gates.smallest < found.of(place.layer).trace() / 48


def test_a_folder_keeps_everything(tiny_backbone, tmp_path, no_sync):
    found = measure_covariances(tiny_backbone, [1], texts(30), fewest=1)
    found.save(tmp_path / "c")
    again = Covariances.load(tmp_path / "c", tiny_backbone)
    assert torch.equal(again.of(1), found.of(1))
    assert (again.gates, again.tokens, again.corpus) == (found.gates, found.tokens, found.corpus)
    with pytest.raises(StatisticsError, match=r"the covariance of layer 0, got .* layers 1;"):
        again.of(0)
    other = make_backbone(seed=1)
    with pytest.raises(StatisticsError, match=r"computed on a model with .* tiny-llama-1"):
        Covariances.load(tmp_path / "c", other)
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "x"}))
    with pytest.raises(FolderError, match="manifest of the folder of covariances is damaged"):
        Covariances.load(tmp_path / "c", tiny_backbone)


def test_too_few_tokens_are_refused(tiny_backbone):
    with pytest.raises(StatisticsError, match=r"48 inputs need at least 2400 tokens, got \d+"):
        measure_covariances(tiny_backbone, [0], texts(3))


def test_a_singular_covariance_is_refused(tiny_backbone):
    with pytest.raises(StatisticsError, match="the covariance of layer 0 is singular"):
        measure_covariances(tiny_backbone, [0], ["old"] * 9, fewest=0.1)
