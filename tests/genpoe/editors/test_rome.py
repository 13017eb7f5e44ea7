"""ROME against its closed form."""

from __future__ import annotations

import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.parts.covariance import StatisticsError, measure_covariances
from genpoe.editors.parts.values import Value, ValueProblem, ValueSettings
from genpoe.editors.rome import ROME, ROMESettings, rome_update
from plumbing.mounts import SettingValueError
from tests.genpoe.editors.test_memit import COVARIANCE, random, read
from tests.helpers.taught import new_facts, texts
from tests.helpers.tiny import make_backbone

VALUE = ValueSettings(contexts=2, context_tokens=(3, 4), steps=3)


def test_an_update_is_the_least_one_that_writes_the_value():
    key, gap = random(8), random(8, seed=1)
    direction = torch.linalg.solve(COVARIANCE, key)
    update = rome_update(gap, key, direction)
    assert torch.allclose(update @ key, gap, atol=1e-12)
    assert torch.linalg.matrix_rank(update) == 1
    for seed in range(5):  # no change that leaves the key alone makes it smaller
        other = random(8, 8, seed=seed)
        other -= torch.outer(other @ key, key) / (key @ key)
        assert abs(float(torch.trace(update @ COVARIANCE @ other.T))) < 1e-10
    scaled = rome_update(gap, key, torch.linalg.solve(7 * COVARIANCE, key))
    assert torch.allclose(scaled, update, atol=1e-12)


@pytest.fixture(scope="module")
def square():
    backbone = make_backbone(intermediate_size=32)
    backbone.model.double()
    return backbone, measure_covariances(backbone, [0], texts(50))


@pytest.mark.parametrize("keys", ["mean", "released"])
@pytest.mark.parametrize("adjust", [False, True])
def test_rome_is_its_closed_form(square, monkeypatch, keys, adjust):
    """W' k = v* at the one key that is used throughout."""
    backbone, statistics = square
    found: list[Value] = []
    optimise = ValueProblem.optimise

    def kept(*args):
        found.append(optimise(*args))
        return found[-1]

    monkeypatch.setattr(ValueProblem, "optimise", kept)
    editor = ROME(backbone, ROMESettings(0, keys=keys, adjust=adjust, value=VALUE), statistics)
    before, (fact,) = state_hash(backbone), new_facts(1)
    down = backbone.layers[0].mlp.down_proj.weight
    weight = down.detach().clone()
    prompts = [fact.prompt, *(f"{each}. {fact.prompt}" for each in editor.contexts)]
    assert len(prompts) == 5
    every = [read(backbone.model, 0, backbone.tokenizer(p)["input_ids"], "key") for p in prompts]
    plain, mean = every[0], sum(every) / 5
    with editor.edited([fact]):
        now = down.detach().clone()
    (value,) = found
    wanted = weight @ plain + value.delta
    key = mean if keys == "mean" else plain
    direction = torch.linalg.solve(statistics.of(0), mean) if adjust else mean
    update = torch.outer(wanted - weight @ key, direction) / (key @ direction)
    assert float(value.delta.norm()) > 0.1
    assert torch.allclose(now, weight + update, atol=1e-10)
    assert torch.allclose(now @ key, wanted, atol=1e-10)
    assert torch.allclose(value.base, weight @ plain, atol=1e-10)
    assert state_hash(backbone) == before


def test_what_rome_needs(square):
    backbone, statistics = square
    with pytest.raises(SettingValueError, match=r"layer must be in 0\.\.1 .* got 2"):
        ROME(backbone, ROMESettings(2))
    with pytest.raises(ValueError, match="adjust=true needs the layer's covariance"):
        ROME(backbone, ROMESettings(0, adjust=True))
    with pytest.raises(StatisticsError, match="the covariance of layer 1"):
        ROME(backbone, ROMESettings(1, adjust=True), statistics)
    with pytest.raises(StatisticsError, match="computed on a model with the state"):
        ROME(make_backbone(), ROMESettings(0, adjust=True), statistics)
