"""The loss of a fact as a function of the value that is added at its subject."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.parts.places import find_places
from genpoe.editors.parts.subjects import (
    sample_contexts,
    subject_keys,
    subject_prompts,
    subject_states,
)
from genpoe.editors.parts.values import ValueProblem, ValueSettings, part_above
from plumbing.mounts import SettingValueError
from tests.helpers.families import FAMILIES
from tests.helpers.taught import new_facts
from tests.helpers.tiny import make_backbone

CONTEXTS = ("The old town", "Because it is by the sea")


def problem(backbone, site="layer", above=None, left=False, contexts=CONTEXTS, **settings):
    prompts = subject_prompts(backbone, encode_fact(backbone, new_facts()[1]), contexts)
    module = backbone.layers[0]
    if site == "mlp":
        module = find_places(backbone, [0])[0].block.module
    return ValueProblem(backbone, prompts, module, ValueSettings(**settings), above, left)


@pytest.fixture(scope="module")
def double():
    backbone = make_backbone()
    backbone.model.double()
    return backbone


def number(loss, *_):
    return float(loss.detach())


def delta(size=32):
    return torch.randn(size, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("site", ["layer", "mlp"])
def test_no_delta_is_the_plain_model(double, site):
    one = problem(double, site)
    plain = one._rows.hidden(double)
    assert torch.equal(one.hidden(torch.zeros(32).double()), plain)
    nll = one._rows.nll(double)[:-1].mean()
    assert torch.allclose(one.loss(torch.zeros(32).double()), nll, atol=1e-14)  # no divergence


@pytest.mark.parametrize("site", ["layer", "mlp"])
def test_the_gradient_is_that_of_finite_differences(site):
    backbone = make_backbone("gpt2")  # Llama's norms compute in float32 always
    backbone.model.double()
    one, at = problem(backbone, site), delta().requires_grad_()
    (gradient,) = torch.autograd.grad(one.loss(at), [at])
    with torch.no_grad():
        for index in (0, 7, 31):
            step = torch.zeros(32).double()
            step[index] = 1e-5
            slope = (one.loss(at + step) - one.loss(at - step)) / 2e-5
            assert torch.allclose(gradient[index], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("site", ["layer", "mlp"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
def test_what_is_computed_once_changes_nothing(family, site):
    """Also behind a window of attention that is shorter than the prompts."""
    backbone = make_backbone(family, num_hidden_layers=3, **FAMILIES[family][1])
    exact = family in ("llama", "gpt2")
    if exact:
        backbone.model.double()
    (place,) = find_places(backbone, [0])
    above = part_above(backbone, place)
    if family == "gemma2":  # it changes what its FFN writes
        assert above is None
        return
    plain, cached = problem(backbone, site), problem(backbone, site, above)
    assert cached._rows.ids.shape[1] < plain._rows.ids.shape[1]
    at = delta().to(plain.base)
    tolerance = 1e-12 if exact else 1e-6
    assert torch.allclose(plain.base, cached.base, atol=tolerance)
    assert torch.allclose(plain.loss(at), cached.loss(at), atol=tolerance)
    if exact:  # in float32, many steps make a difference of rounding large
        values = [each.optimise(number, None).delta for each in (plain, cached)]
        assert torch.allclose(values[0], values[1], atol=1e-9)


def test_whole_rows_are_computed_where_nothing_lies_above(double):
    assert part_above(double, find_places(double, [1])[0]) is None


def test_the_padded_side_changes_nothing(double):
    def found(**settings):
        one = problem(double, steps=6, **settings)
        return one.optimise(number, None).delta

    right, left = found(), found(left=True)
    assert float(right.norm()) > 0.1
    assert torch.allclose(right, left, atol=1e-10)


def test_delta_stays_within_its_bound(double):
    one = problem(double, steps=10, clamp=0.25)
    value = one.optimise(number, None)
    assert torch.allclose(value.delta.norm(), 0.25 * value.base.norm())
    assert len(value.losses) == 10
    stopped = problem(double, stop=100.0).optimise(number, None)
    assert len(stopped.losses) == 1


def test_contexts_leave_the_global_generator_alone(double):
    state = torch.random.get_rng_state()
    first = sample_contexts(double, [3, 6], 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == sample_contexts(double, [3, 6], 5)
    assert first != sample_contexts(double, [3, 6], 5, seed=1)
    assert len(first) == 10
    assert [text.split()[0][:1] for text in first[:5]] == ["T", "T", "B", "I", "Y"]
    assert not any("\n" in text for text in first)
    assert sample_contexts(double, [3], 0) == ()


def test_keys_and_states_do_not_depend_on_the_batch(double):
    facts = [encode_fact(double, fact) for fact in new_facts()]
    prompts = [subject_prompts(double, fact, CONTEXTS) for fact in facts]
    (place,) = find_places(double, [1])
    keys, states = subject_keys(double, place, prompts), subject_states(double, 0, prompts)
    for number, each in enumerate(prompts):
        (alone,) = subject_keys(double, place, [each])
        assert torch.allclose(keys[number], alone, atol=1e-12)
        assert torch.allclose(states[number], subject_states(double, 0, [each])[0], atol=1e-12)
        assert keys[number].shape == (3, 48)


@pytest.mark.parametrize("name", ["kl", "decay", "stop", "contexts"])
def test_negative_settings_are_refused(name):
    with pytest.raises(SettingValueError, match=f"{name} must not be negative, got -1"):
        ValueSettings(**cast(Any, {name: -1}))
