"""MEND and MALMEN against their closed forms, in float64 and with o = i."""

from __future__ import annotations

import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.parts.factors import gradient_factors, positions
from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.parts.moments import Moments
from genpoe.editors.parts.rows import rows_of
from genpoe.editors.trained.malmen import MALMEN, MALMENNetworks
from genpoe.editors.trained.mend import MEND, MENDNetworks
from genpoe.editors.trained.networks import TrainedSettings
from plumbing.mounts import SettingValueError
from tests.helpers.taught import new_facts
from tests.helpers.tiny import make_backbone

BOTH = [MENDNetworks, MALMENNetworks]


@pytest.fixture
def square():
    backbone = make_backbone(intermediate_size=32)  # o = i
    backbone.model.double()
    return backbone


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def networks_of(kind, backbone, **changes):
    settings = {"layers": [0, 1], "rank": 6, "normalise": False, "eta": 0.05, **changes}
    return kind(backbone, TrainedSettings(**settings)).double()


def spread(networks):
    """Give every parameter a value, as after training."""
    with torch.no_grad():
        for number, parameter in enumerate(networks.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=number)
    return networks


def test_mend_begins_as_a_gradient_step(square):
    networks = networks_of(MENDNetworks, square, tokens="all", projections=["gate", "down"])
    rows = rows_of(square, [encode_fact(square, fact) for fact in new_facts()])
    factors, _ = gradient_factors(square, networks.places, rows)
    where = positions(rows, "all")
    weights = [place.block.module.weight for place in networks.places]
    for weight in weights:
        weight.requires_grad_()
    wanted = torch.autograd.grad(rows.nll(square).sum(), weights)
    for place, gradient in zip(networks.places, wanted, strict=True):
        update = networks.update(place, *factors[place].at(*where))
        assert float(gradient.abs().max()) > 1e-3
        assert torch.allclose(update, -0.05 * gradient, atol=1e-12)


def written_out(networks, place, inputs, gradients, outside):
    """The transformed factors, token by token."""
    number = networks.places.index(place)
    moments = networks.moments(place)
    transformed = []
    for u, delta in zip(inputs, gradients, strict=True):
        z = torch.cat([u, delta])
        z = (z - moments.mean) / (moments.std + 1e-7)
        for block in networks.networks["32x32"]:
            y = block.a @ (block.b @ z) + block.bias
            s, t = block.scale[number], block.shift[number]
            zero = torch.zeros(())
            z = z + (s * torch.maximum(y, zero) + t if outside else torch.maximum(s * y + t, zero))
        transformed.append((z[:32], z[32:]))
    return transformed


@pytest.mark.parametrize("kind", BOTH)
def test_updates_are_their_closed_forms(kind, square):
    networks = spread(networks_of(kind, square, normalise=True))
    samples = random(50, 64, seed=9) * 3 + 1
    networks.set_moments({place: Moments().updated(samples) for place in networks.places})
    inputs, gradients = random(5, 32), random(5, 32, seed=1)
    for number, place in enumerate(networks.places):
        made = written_out(networks, place, inputs, gradients, kind is MALMENNetworks)
        eta = networks.log_eta[number].exp()
        if kind is MENDNetworks:
            wanted = -eta * sum(torch.outer(delta, u) for u, delta in made)
        else:
            values = torch.stack(
                [-eta * (raw @ u) * d for raw, (u, d) in zip(inputs, made, strict=True)], 1
            )
            ridge = networks.theta[number].exp() * torch.eye(32).double()
            wanted = values @ inputs @ torch.linalg.inv(inputs.T @ inputs + ridge)
        found = networks.update(place, inputs, gradients)
        assert torch.allclose(found, wanted, atol=1e-10)
        assert torch.linalg.matrix_rank(found) <= 5


def test_malmens_ridge(square):
    networks = spread(networks_of(MALMENNetworks, square)).requires_grad_(False)
    place, inputs, gradients = networks.places[0], random(40, 32), random(40, 32, seed=1)
    found = networks.update(place, inputs, gradients)  # 40 tokens: the primal form
    values = networks.values(place, inputs, gradients)
    ridge = networks.theta[0].exp()
    dual = torch.linalg.solve(inputs @ inputs.T + ridge * torch.eye(40).double(), inputs)
    assert torch.allclose(found, values.T @ dual, atol=1e-10)
    residual = found @ (inputs.T @ inputs + ridge * torch.eye(32).double()) - values.T @ inputs
    assert float(residual.norm() / (values.T @ inputs).norm()) < 1e-10
    with torch.no_grad():
        networks.theta += torch.log(torch.tensor(2.0))
    twice = networks.update(place, torch.cat([inputs] * 2), torch.cat([gradients] * 2))
    assert torch.allclose(twice, found, atol=1e-12)
    with torch.no_grad():
        networks.theta += 100
    assert float(networks.update(place, inputs, gradients).abs().max()) < 1e-9


def test_malmens_gradients_are_those_of_the_paper(square):
    """With T = G (U U^T + lambda I)^-1: dL/dV = T U, and dL/dtheta = -lambda <T, D>."""
    networks = spread(networks_of(MALMENNetworks, square))
    place, inputs, gradients = networks.places[1], random(9, 32), random(9, 32, seed=1)
    loss_gradient = random(32, 32, seed=2)
    values = networks.values(place, inputs, gradients)
    update = networks.update(place, inputs, gradients)
    ridge = networks.theta[1].detach().exp()
    t = loss_gradient @ torch.linalg.inv(inputs.T @ inputs + ridge * torch.eye(32).double())
    parameters = [p for name, p in networks.named_parameters() if name != "theta"]
    found = torch.autograd.grad(
        (loss_gradient * update).sum(), [*parameters, networks.theta], retain_graph=True
    )
    wanted = torch.autograd.grad(((t @ inputs.T) * values.T).sum(), parameters)
    for one, other in zip(found[:-1], wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    assert float(found[-1][1]) == pytest.approx(-float(ridge * (t * update.detach()).sum()))


def test_what_is_learnt_begins_with_a_gradient(square):
    """Where A = 0, a ReLU whose derivative at zero is zero would never move."""
    for kind in BOTH:
        networks = networks_of(kind, square)
        made = networks.update(networks.places[0], random(5, 32), random(5, 32, seed=1))
        (random(32, 32, seed=2) * made).sum().backward()
        blocks = networks.networks["32x32"]
        assert all(bool(block.a.grad.any()) for block in blocks)
        assert bool(networks.log_eta.grad[0])


@pytest.mark.parametrize(("kind", "editor"), [(MENDNetworks, MEND), (MALMENNetworks, MALMEN)])
def test_an_edit_adds_the_update(kind, editor, square):
    """Alone or in a batch, the factors are equal. The first token never counts."""
    networks = spread(networks_of(kind, square, tokens="all", edits=2))
    copies = [p.weight.clone() for p in networks.places]
    before = state_hash(square)
    made = editor(square, networks)
    groups = [new_facts()[:2], new_facts()[2:]] if editor is MEND else [new_facts()]
    wanted = make_backbone(intermediate_size=32)
    wanted.model.double()
    again = networks_of(kind, wanted, tokens="all", edits=2)
    again.load_state_dict(networks.state_dict())
    made.edit(new_facts())
    for group in groups:
        tokens: dict = {place: ([], []) for place in again.places}
        for fact in group:
            rows = rows_of(wanted, [encode_fact(wanted, fact)])
            factors, _ = gradient_factors(wanted, again.places, rows)
            for place, each in factors.items():
                tokens[place][0].append(each.inputs[0, 1:])
                tokens[place][1].append(each.gradients[0, 1:])
        with torch.no_grad():
            for place, (u, delta) in tokens.items():
                place.block.module.weight += again.update(place, torch.cat(u), torch.cat(delta))
    for place, other, copy in zip(made.places, again.places, copies, strict=True):
        assert torch.allclose(place.weight, other.weight, atol=1e-9)
        assert not torch.allclose(place.weight, copy)
    made.undo()
    assert state_hash(square) == before


def test_settings_and_statistics_are_checked(square):
    for changes, message in (
        ({"rank": 0}, "rank must be positive"),
        ({"tokens": "some"}, "tokens must be one of answer, all"),
        ({"locality_weight": -1.0}, "locality_weight must not be negative"),
        ({"layers": [2]}, r"layers must be in 0\.\.1"),
    ):
        with pytest.raises(SettingValueError, match=message):
            networks_of(MENDNetworks, square, **changes)
    with pytest.raises(ValueError, match="need the statistics of training edits, got none"):
        MEND(square, networks_of(MENDNetworks, square, normalise=True))
