"""Covariances by a command: kept in the cache, found there, and gone on with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from genpoe.commands.measure_covariances import measured_covariances
from genpoe.editors.memit import MEMIT
from genpoe.editors.parts import covariance
from genpoe.editors.parts.covariance import Covariances, StatisticsError, measure_covariances
from genpoe.editors.parts.places import read_inputs
from genpoe.editors.recipes import open_editor
from plumbing.mounts import SettingValueError
from tests.helpers.taught import texts
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

SMALL = [
    *("data.train_entities=30", "data.dev_entities=1", "data.test_entities=0"),
    *("data.distractor_entities=0", "data.unseen_entities=0", "passages=25"),
    "editor.recipes.tuned.layers=[0,1]",
]


def config_for(folder, *overrides):
    given = [f"paths.cache_dir={folder}", f"paths.output_dir={folder}/run", *SMALL, *overrides]
    return composed("measure_covariances", *given)


def editor_of(backbone, folder, layers=(1,)):
    config = composed("evaluate", "method=memit", f"paths.cache_dir={folder}").editor
    values: Any = OmegaConf.to_container(config, resolve=False)
    values |= {"seed": 0, "cache_dir": str(folder)}
    values["recipes"]["tuned"] |= {"layers": list(layers)}
    values["recipes"]["tuned"]["value"]["contexts"] = 0
    return open_editor(backbone, **values)


def test_an_editor_finds_what_was_measured(tmp_path, monkeypatch, no_sync):
    backbone = make_backbone()
    command = r"layers 1 of tiny-llama-0 in float32, found none in .*; run scripts/measure_cov"
    with pytest.raises(SettingValueError, match=command):
        editor_of(backbone, tmp_path)
    metrics, folder = measured_covariances(config_for(tmp_path), backbone)
    assert metrics["passages"] == 25
    assert metrics["layer_0/edits"] > 0
    assert metrics["layer_1/condition"] > 1
    found = Covariances.load(folder, backbone)
    assert found.gates[1].edits == metrics["layer_1/edits"]
    editor = editor_of(backbone, tmp_path)
    assert isinstance(editor, MEMIT)
    assert torch.equal(editor._covariance[editor.places[0]], found.of(1))
    monkeypatch.setattr(covariance, "read_inputs", None)
    assert (
        measured_covariances(config_for(tmp_path), backbone)[1] == folder
    )  # nothing is read again
    with pytest.raises(SettingValueError, match="found none"):  # another model
        editor_of(make_backbone(seed=1), tmp_path)


def test_two_that_fit_are_not_chosen_between(tmp_path, no_sync):
    backbone = make_backbone()
    folders = {
        measured_covariances(config_for(tmp_path, f"seed={seed}"), backbone)[1] for seed in (0, 1)
    }
    assert len(folders) == 2
    with pytest.raises(StatisticsError, match=r"holds 2 covariances of the layers 1 .* name the"):
        editor_of(backbone, tmp_path)


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(StatisticsError, match=r"48 inputs need at least 2400 tokens, got \d+"):
        measured_covariances(config_for(tmp_path, "passages=2"), make_backbone())
    with pytest.raises(SettingValueError, match="name must be one of memit, rome, alphaedit"):
        measured_covariances(composed("measure_covariances", "editor=grace"), make_backbone())


def test_what_was_interrupted_goes_on_with_the_same_sums(tmp_path, monkeypatch, no_sync):
    backbone, some, file = make_backbone(), texts(20), tmp_path / "partial"
    wanted = measure_covariances(backbone, [0, 1], some, batch_size=2, fewest=1)
    monkeypatch.setattr(covariance, "_SECONDS", 0)
    read, count = read_inputs, []

    def interrupted(*arguments):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(covariance, "read_inputs", interrupted)
    again = {"batch_size": 2, "fewest": 1, "partial": file}
    with pytest.raises(KeyboardInterrupt):
        measure_covariances(backbone, [0, 1], some, **again)
    assert file.is_file()
    found = measure_covariances(backbone, [0, 1], some, **again)
    assert len(count) == 6 + 5 + 1  # the other five batches, and the keys of the gate
    assert not file.exists()
    for layer in (0, 1):
        assert torch.equal(found.of(layer), wanted.of(layer))
    for layer, gates in wanted.gates.items():
        assert vars(found.gates[layer]) == pytest.approx(vars(gates))


def test_the_gate_of_edits_is_memits_update_with_each_half(monkeypatch):
    """Whatever the outputs are to be: the mean over random residuals is the same."""
    backbone, some = make_backbone(), texts(40)
    seen = {}
    gates = covariance._gates

    def keep(whole, halves, counts, keys, weight):
        seen["all"] = whole, list(halves), counts, keys, weight
        return gates(*seen["all"])

    monkeypatch.setattr(covariance, "_gates", keep)
    found = measure_covariances(backbone, [1], some, fewest=1, weight=30.0)
    whole, halves, counts, keys, weight = seen["all"]
    assert (keys.shape, weight) == ((48, 20), 30.0)
    residuals = torch.randn(4000, 20, generator=torch.Generator().manual_seed(0)).double()
    one, other, every = (
        residuals @ keys.T @ torch.linalg.inv(30.0 * each + keys @ keys.T)
        for each in (halves[0] / counts[0], halves[1] / counts[1], whole)
    )
    assert found.gates[1].edits == pytest.approx(float((one - other).norm() / every.norm()), 0.03)
