"""MEMIT and AlphaEdit against their closed forms, written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.alphaedit import (
    AlphaEdit,
    AlphaEditSettings,
    alphaedit_update,
    small_directions,
)
from genpoe.editors.memit import MEMIT, MEMITSettings, memit_update
from genpoe.editors.parts.covariance import measure_covariances
from genpoe.editors.parts.ridge import SingularError, ridge_update
from genpoe.editors.parts.values import ValueSettings
from plumbing.mounts import SettingValueError
from tests.helpers.taught import new_facts, texts
from tests.helpers.tiny import make_backbone

VALUE = ValueSettings(contexts=2, context_tokens=(3,), steps=2)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


COVARIANCE = (lambda x: x @ x.T / 40)(random(8, 40, seed=9))
KEYS, RESIDUALS = random(8, 3), random(8, 3, seed=1)  # square: o = i


@pytest.mark.parametrize("weight", [0.01, 2.0, 15000.0])
def test_an_update_solves_its_equation(weight):
    update = memit_update(COVARIANCE, KEYS, RESIDUALS, weight)
    left = update @ (weight * COVARIANCE + KEYS @ KEYS.T)
    wanted = RESIDUALS @ KEYS.T
    assert float((left - wanted).norm() / wanted.norm()) < 1e-10
    inverse = torch.linalg.inv(COVARIANCE)
    small = torch.linalg.inv(weight * torch.eye(3).double() + KEYS.T @ inverse @ KEYS)
    woodbury = RESIDUALS @ small @ KEYS.T @ inverse
    assert torch.allclose(update, woodbury, rtol=1e-10, atol=1e-14)


def test_an_update_is_what_gradient_descent_finds():
    update = torch.zeros(8, 8).double().requires_grad_()
    for _ in range(4000):
        missed = (update @ KEYS - RESIDUALS).square().sum()
        loss = 0.5 * torch.trace(update @ COVARIANCE @ update.T) + missed
        (gradient,) = torch.autograd.grad(loss, [update])
        update = (update - 0.01 * gradient).detach().requires_grad_()
    assert torch.allclose(update, memit_update(COVARIANCE, KEYS, RESIDUALS, 0.5), atol=1e-6)


def test_limits_of_an_update():
    exact = memit_update(COVARIANCE, KEYS, RESIDUALS, 1e-10)
    assert torch.allclose(exact @ KEYS, RESIDUALS, atol=1e-6)
    none = memit_update(COVARIANCE, KEYS[:, :0], RESIDUALS[:, :0], 1.0)
    assert torch.equal(none, torch.zeros(8, 8).double())
    with pytest.raises(SingularError, match=r"lambda C \+ K K\^T must be positive definite"):
        memit_update(torch.zeros(8, 8), KEYS, RESIDUALS, 1.0)


def projector(share):
    basis = small_directions(COVARIANCE, share, None)
    return basis, basis @ basis.T


def test_the_free_directions():
    basis, projected = projector(0.5)
    values, vectors = torch.linalg.eigh(COVARIANCE)
    assert basis.shape == (8, 4)
    assert torch.allclose(projected @ projected, projected, atol=1e-12)
    assert torch.allclose(torch.trace(projected @ COVARIANCE), values[:4].sum())
    update = alphaedit_update(basis, KEYS, RESIDUALS, random(8, 2, seed=4), 0.3)
    assert float(update.norm()) > 0.1
    assert torch.allclose(update @ projected, update, atol=1e-12)
    assert torch.allclose(update @ vectors[:, 4:], torch.zeros(8, 4).double(), atol=1e-12)
    at = float(values[2] + values[3]) / 2
    assert small_directions(COVARIANCE, None, at).shape == (8, 3)


def test_both_forms_of_alphaedit_agree():
    basis, projected = projector(0.5)
    earlier = random(8, 5, seed=4)
    update = alphaedit_update(basis, KEYS, RESIDUALS, earlier, 0.3)
    moments = earlier @ earlier.T + KEYS @ KEYS.T
    matrix = moments @ projected + 0.3 * torch.eye(8).double()
    wanted = RESIDUALS @ KEYS.T @ projected @ torch.linalg.inv(matrix)
    assert torch.allclose(update, wanted, atol=1e-10)
    everything = torch.eye(8).double()
    ridge = alphaedit_update(everything, KEYS, RESIDUALS, KEYS[:, :0], 0.3)
    assert torch.allclose(ridge, ridge_update(KEYS, RESIDUALS, 0.3), atol=1e-12)


@pytest.mark.parametrize(
    ("share", "threshold"), [(0.01, None), (0.99, None), (None, 1e9), (None, 0)]
)
def test_no_direction_or_all_of_them_are_refused(share, threshold):
    with pytest.raises(SettingValueError, match="of the 8 directions must be free to change"):
        small_directions(COVARIANCE, share, threshold)


def test_shares_out_of_range_are_refused():
    for share in (0, 1, -0.1):
        with pytest.raises(SettingValueError, match="share must lie between 0 and 1"):
            AlphaEditSettings([0], share=share)
    for both in ({"share": None}, {"threshold": 0.1}):
        with pytest.raises(SettingValueError, match="one of share and threshold"):
            AlphaEditSettings([0], **both)


@pytest.fixture(scope="module")
def square():
    """A random model of two layers in float64, whose FFN is square, and its covariances."""
    backbone = make_backbone(intermediate_size=32)
    backbone.model.double()
    return backbone, measure_covariances(backbone, [0, 1], texts(50))


def read(model, layer, ids, what):
    """What the down projection reads, or the layer writes, at the last of some tokens."""
    found: dict[str, Any] = {}
    module = (
        model.model.layers[layer] if what == "layer" else model.model.layers[layer].mlp.down_proj
    )
    handle = module.register_forward_hook(lambda _, i, o: found.update(i=i[0], o=o))
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    states = found["i"] if what == "key" else found["o"]
    return (states[0] if isinstance(states, tuple) else states)[0, -1]


def written_out(backbone, editor, batches, solve, targets):
    """The weights after some batches, with loops over layers, facts and contexts."""
    model = copy.deepcopy(backbone.model)
    tokenizer = backbone.tokenizer
    for facts in batches:
        wanted = {}
        prompts = {}
        for fact in facts:
            texts_ = [fact.prompt, *(f"{each}. {fact.prompt}" for each in editor.contexts)]
            prompts[fact.id] = [tokenizer(text)["input_ids"] for text in texts_]
            wanted[fact.id] = targets[fact.id]
        for layer, left in ((0, 2), (1, 1)):
            keys, residuals = [], []
            for fact in facts:
                plain, *others = (read(model, layer, ids, "key") for ids in prompts[fact.id])
                keys.append(plain / 2 + sum(others) / len(others) / 2)
                now = read(model, 1, prompts[fact.id][0], "layer")
                residuals.append((wanted[fact.id] - now) / left)
            update = solve(layer, torch.stack(keys, 1), torch.stack(residuals, 1))
            model.model.layers[layer].mlp.down_proj.weight.data += update
    return [model.model.layers[layer].mlp.down_proj.weight for layer in (0, 1)]


# The subjects end their prompts, so the last token of a prompt is that of its subject.
TARGETS = {fact.id: random(32, seed=20 + i) for i, fact in enumerate(new_facts())}


def fix_targets(editor, monkeypatch):
    monkeypatch.setattr(editor, "_wanted", lambda prompts: TARGETS[prompts.encoded.fact.id])


def test_memit_is_its_closed_form(square, monkeypatch):
    backbone, statistics = square
    before = state_hash(backbone)
    editor = MEMIT(backbone, MEMITSettings([0, 1], weight=0.7, value=VALUE), statistics)
    fix_targets(editor, monkeypatch)
    batches = [new_facts()[:2], new_facts()[2:]]
    for facts in batches:
        editor.edit(facts)

    def solve(layer, keys, residuals):
        return residuals @ keys.T @ torch.linalg.inv(0.7 * statistics.of(layer) + keys @ keys.T)

    wanted = written_out(backbone_before(editor), editor, batches, solve, TARGETS)
    for layer in (0, 1):
        found = backbone.layers[layer].mlp.down_proj.weight
        assert torch.allclose(found, wanted[layer], atol=1e-10)
    editor.undo()
    assert state_hash(backbone) == before


def test_alphaedit_is_its_closed_form(square, monkeypatch):
    backbone, statistics = square
    before = state_hash(backbone)
    settings = AlphaEditSettings([0, 1], share=0.5, mu=0.3, value=VALUE)
    editor = AlphaEdit(backbone, settings, statistics)
    assert editor.shares == {0: 0.5, 1: 0.5}
    fix_targets(editor, monkeypatch)
    batches = [new_facts()[:2], new_facts()[2:]]
    sums = {layer: torch.zeros(32, 32).double() for layer in (0, 1)}

    def solve(layer, keys, residuals):
        vectors = torch.linalg.eigh(statistics.of(layer)).eigenvectors[:, :16]
        projected = vectors @ vectors.T
        sums[layer] += keys @ keys.T  # with the keys of this batch
        matrix = sums[layer] @ projected + 0.3 * torch.eye(32).double()
        return residuals @ keys.T @ projected @ torch.linalg.inv(matrix)

    for _ in range(2):  # nothing of the first run is left in the second
        for layer in sums:
            sums[layer].zero_()
        for facts in batches:
            editor.edit(facts)
        wanted = written_out(backbone_before(editor), editor, batches, solve, TARGETS)
        for layer in (0, 1):
            found = backbone.layers[layer].mlp.down_proj.weight
            assert torch.allclose(found, wanted[layer], atol=1e-10)
        editor.undo()
        assert state_hash(backbone) == before


def backbone_before(editor):
    """A backbone whose weights are those before all edits."""
    backbone = make_backbone(intermediate_size=32)
    backbone.model.double()
    return backbone


def test_values_are_optimised_on_the_model_at_the_start_of_the_batch(square, monkeypatch):
    """The second layer's residuals are those of the partly edited model; the values are not."""
    backbone, statistics = square
    editor = MEMIT(backbone, MEMITSettings([0, 1], weight=0.7, value=VALUE), statistics)
    seen: list[str] = []
    plain = editor._wanted

    def watched(prompts):
        seen.append(state_hash(backbone))
        return plain(prompts)

    monkeypatch.setattr(editor, "_wanted", watched)
    with editor.edited(new_facts()):
        assert len(seen) == 3
        assert len(set(seen)) == 1
        assert state_hash(backbone) not in seen
