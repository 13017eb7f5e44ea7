"""The training of MEND and MALMEN: its gradient, its cache, and what stops it."""

from __future__ import annotations

import math

import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.parts.factors import shifted
from genpoe.editors.parts.rows import make_rows
from genpoe.editors.trained.examples import LOCALITY, OWN, REPHRASED, EditData, EditExamples
from genpoe.editors.trained.malmen import MALMEN, MALMENNetworks
from genpoe.editors.trained.mend import MEND, MENDNetworks
from genpoe.editors.trained.module import DivergedError, EditorModule
from genpoe.editors.trained.networks import TrainedSettings
from tests.helpers.edits import rephrased_facts, train_networks
from tests.helpers.taught import new_facts, taught_backbone
from tests.helpers.tiny import make_backbone

BOTH = [MENDNetworks, MALMENNetworks]


class FakeTrainer:
    global_step = 0

    def __init__(self, datamodule):
        self.datamodule = datamodule


def module_of(backbone, networks):
    module = EditorModule(backbone, networks)
    data = EditData(EditExamples(backbone, rephrased_facts()), 3)
    module._trainer = FakeTrainer(data)  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("kind", BOTH)
def test_the_meta_gradient_is_that_of_the_loss_at_the_edited_weights(kind):
    """Against finite differences, with the weights written and everything computed plainly."""
    backbone = make_backbone(intermediate_size=32)
    backbone.model.double()
    settings = TrainedSettings([0, 1], rank=4, normalise=False, eta=0.5, edit_weight=0.7)
    networks = kind(backbone, settings).double()
    module = module_of(backbone, networks)
    examples, facts = module._data.examples, torch.tensor([0, 9, 40])

    def loss():
        updates = {
            p: networks.update(p, *each).detach()
            for p, each in module.factors(examples, facts).items()
        }
        stays = [examples._rows[i][LOCALITY][0] for i in facts.tolist()]
        before = [logits_of(backbone, ids) for ids in stays]
        old = {p: p.weight.clone() for p in updates}
        with torch.no_grad():
            for place, update in updates.items():
                place.block.module.weight += update
            asked = [examples._rows[i][REPHRASED] for i in facts.tolist()]
            rows = make_rows(backbone, [row[0] for row in asked], [row[1] for row in asked])
            total = 0.7 * rows.nll(backbone).mean()
            for ids, plain in zip(stays, before, strict=True):
                total = total + (plain.exp() * (plain - logits_of(backbone, ids))).sum() / 3
            for place, weight in old.items():
                place.block.module.weight.copy_(weight)
        return float(total)

    objective, parts = module(facts)
    assert float(parts["loss"]) == pytest.approx(loss(), abs=1e-9)
    assert float(parts["locality_kl"]) > 1e-4
    objective.backward()
    for name, parameter in networks.named_parameters():
        place = int(parameter.grad.abs().flatten().argmax())
        flat, step = parameter.detach().view(-1), 1e-3  # norms are in float32
        if name.endswith(("bias", "shift", ".a")):
            continue  # at zero, where the ReLU has a kink
        slopes = []
        for sign in (1, -1):
            flat[place] += sign * step
            slopes.append(loss())
            flat[place] -= sign * step
        slope = (slopes[0] - slopes[1]) / (2 * step)
        assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=3e-3, abs=1e-6)


def logits_of(backbone, ids):
    with torch.no_grad():
        return backbone.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize(
    ("kind", "editor", "epochs", "changes"),
    [
        (
            MENDNetworks,
            MEND,
            2,
            {"tokens": "all", "eta": 1e-2, "edits": 4, "projections": ["up", "down"]},
        ),
        (MALMENNetworks, MALMEN, 4, {"eta": 1e-1, "edits": 4}),
    ],
)
def test_training_lowers_the_loss_and_makes_edits_true(kind, editor, epochs, changes):
    backbone = taught_backbone()
    before = state_hash(backbone)
    settings = TrainedSettings(
        [0, 1], rank=24, lr=3e-3, eta_lr=1e-1, locality_weight=0.1, **changes
    )
    module, first = train_networks(backbone, kind(backbone, settings), 1, limit_train_batches=1)
    module, last = train_networks(backbone, kind(backbone, settings), epochs)
    assert last["val/edit_nll"] < 0.6 * first["val/edit_nll"]
    assert state_hash(backbone) == before
    made = editor(backbone, module.networks)
    report = made.edit(new_facts(1))
    assert report.nll_after[0] < 0.5 * report.nll_before[0]
    made.undo()
    assert state_hash(backbone) == before


def test_states_below_the_edited_layers_change_nothing(tmp_path, no_sync):
    backbone = taught_backbone()
    settings = TrainedSettings([1], rank=4, edits=4, eta=1e-2)
    plain, cached = (
        train_networks(
            backbone, MALMENNetworks(backbone, settings), 1, cache, limit_train_batches=3
        )
        for cache in (None, tmp_path)
    )
    assert any(tmp_path.iterdir())
    for name in ("train/loss", "val/loss"):
        assert cached[1][name] == pytest.approx(plain[1][name], rel=1e-4)
    for one, other in zip(
        plain[0].networks.parameters(), cached[0].networks.parameters(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_value_that_is_not_finite_stops_the_training_and_is_named(monkeypatch):
    """The first value that is not finite stops the training."""
    backbone = make_backbone()
    networks = MENDNetworks(backbone, TrainedSettings([0, 1], rank=4, edits=4))
    count = iter(range(100))
    update = networks.update

    def broken(place, inputs, gradients):
        found = update(place, inputs, gradients)
        return found * math.nan if next(count) == 5 else found  # the second map in the third step

    monkeypatch.setattr(networks, "update", broken)
    message = r"the update of model\.layers\.1\.mlp\.down_proj\.weight is not finite at step 3 of"
    with pytest.raises(DivergedError, match=message):
        train_networks(backbone, networks, 1, limit_val_batches=0, num_sanity_val_steps=0)


def test_statistics_of_a_model_that_is_not_finite_are_refused():
    backbone = make_backbone()
    with torch.no_grad():
        backbone.layers[0].mlp.up_proj.weight[0, 0] = math.inf
    networks = MENDNetworks(backbone, TrainedSettings([0], rank=4))
    with pytest.raises(DivergedError, match=r"layers\.0\.mlp\.down_proj\.weight .* at step 1 of"):
        train_networks(backbone, networks, 1, limit_train_batches=1, num_sanity_val_steps=0)


@pytest.mark.parametrize("kind", BOTH)
def test_the_first_meta_gradient_is_not_zero(kind, monkeypatch):
    """A network whose first gradient is zero would never learn."""
    backbone = make_backbone()
    settings = TrainedSettings([0, 1], rank=4, edits=4, normalise=False)
    networks = kind(backbone, settings)
    objective, _ = module_of(backbone, networks)(torch.tensor([0, 9, 40]))
    objective.backward()
    for name, parameter in networks.named_parameters():
        if name.endswith((".a", "log_eta", "theta")):  # the others lie behind A = 0
            assert bool(parameter.grad.any()), name
    monkeypatch.setattr(
        networks, "update", lambda place, u, d: place.weight * 0 * networks.eta(place)
    )
    with pytest.raises(DivergedError, match="is zero at step 1 of the training"):
        train_networks(backbone, networks, 1, limit_train_batches=1, num_sanity_val_steps=0)


@pytest.mark.parametrize(
    ("family", "projections"),
    [("llama", ["gate", "down"]), ("gpt2", ["up", "down"]), ("phi3", ["gate", "up", "down"])],
)
def test_moved_maps_are_those_with_the_written_weights(family, projections):
    from genpoe.editors.parts.places import changed, find_places
    from tests.helpers.families import FAMILIES

    backbone = make_backbone(family, **FAMILIES[family][1])
    backbone.model.double()
    places = find_places(backbone, [0, 1], projections)
    updates = {place: 0.1 * torch.randn(place.weight.shape).double() for place in places}
    ids = torch.arange(6)[None]
    with shifted(updates):
        found = backbone.hidden_states(ids, torch.ones_like(ids))
    masters = {p.parameter: p.block.module.weight.detach().clone() for p in places}
    new = changed({p: p.weight + updates[p] for p in places}, masters)
    with torch.no_grad():
        for place in places:
            place.block.module.weight.copy_(new[place.parameter])
    wanted = backbone.hidden_states(ids, torch.ones_like(ids))
    assert torch.allclose(found, wanted, atol=1e-9)


def test_examples_are_the_rows_of_facts():
    backbone = make_backbone()
    facts = rephrased_facts()
    examples = EditExamples(backbone, facts, seed=1)
    assert len(examples) == len(facts)
    rows, places = examples.rows([OWN, REPHRASED, LOCALITY], torch.tensor([3, 50]))
    decoded = [
        backbone.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(rows.ids, rows.mask, strict=True)
    ]
    sequences = examples.sequences
    for row, place in zip(rows.ids, places.tolist(), strict=True):
        assert row[: len(sequences[place])].tolist() == sequences[place]
    for number, index in enumerate((3, 50)):
        fact = facts[index]
        assert decoded[number] == f"{fact.prompt} {fact.target}<|im_end|>"
        assert decoded[2 + number] == f"{fact.rephrasings[0]} {fact.target}<|im_end|>"
        stays = next(f for f in facts if f.prompt == decoded[4 + number])
        assert stays.subject != fact.subject
    assert (rows.labels[4:] == -100).all()
