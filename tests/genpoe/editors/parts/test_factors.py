"""Places of every kind of FFN, and the factors of their gradients."""

from __future__ import annotations

import pytest
import torch

from backbone.edits import WeightEdits, state_hash
from backbone.model import UnsupportedBackboneError
from genpoe.editors.parts.factors import gradient_factors
from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.parts.places import changed, check_adds, find_places, read_inputs
from genpoe.editors.parts.rows import make_rows, rows_of
from plumbing.mounts import SettingValueError
from tests.helpers.families import FAMILIES
from tests.helpers.taught import taught_facts
from tests.helpers.tiny import MOE, make_backbone

# Square FFNs, so that a transposed weight has the right shape and the wrong values.
KINDS = {
    "llama": ({"intermediate_size": 32}, ("gate", "up", "down")),
    "phi3": ({"intermediate_size": 32}, ("gate", "up", "down")),
    "gpt2": ({"n_inner": 32}, ("up", "down")),
    "gpt_neox": ({"intermediate_size": 32}, ("up", "down")),
}


def double(family, **settings):
    backbone = make_backbone(family, **{**FAMILIES[family][1], **settings})
    backbone.model.double()
    return backbone


@pytest.mark.parametrize("family", KINDS)
def test_factors_are_the_gradient_of_the_weight(family):
    settings, projections = KINDS[family]
    backbone = double(family, **settings)
    before = state_hash(backbone)
    facts = [encode_fact(backbone, fact) for fact in taught_facts()[:3]]
    rows = rows_of(backbone, facts)
    places = find_places(backbone, [0, 1], projections)
    factors, nll = gradient_factors(backbone, places, rows)
    assert state_hash(backbone) == before
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    weights = {place.block.module.weight for place in places}
    for weight in weights:
        weight.requires_grad_()
    rows.nll(backbone).sum().backward()
    for place, each in factors.items():
        made = torch.einsum("nto,nti->oi", each.gradients, each.inputs)
        wanted = place.block.part(place.block.module.weight.grad)
        assert float(wanted.abs().max()) > 1e-4
        assert torch.allclose(made, wanted, atol=1e-12)
    assert torch.equal(nll, rows.nll(backbone).detach())


def test_neither_order_nor_padding_changes_the_factors():
    """Alone or in a batch, padded left or right, and with the padding in a prompt."""
    backbone = double("llama")
    facts = [encode_fact(backbone, fact) for fact in taught_facts()[:4]]
    facts[2].prompt_ids[3] = backbone.tokenizer.pad_token_id  # the end of the sequence as well
    places = find_places(backbone, [0, 1], ("up", "down"))

    def gathered(some, left=False):
        rows = rows_of(backbone, some, left)
        factors, _ = gradient_factors(backbone, places, rows)
        return {place: each.at(*rows.predicting) for place, each in factors.items()}

    wanted = [gathered([fact]) for fact in facts]
    for left in (False, True):
        for place, (inputs, gradients) in gathered(facts, left).items():
            for number, name in enumerate((inputs, gradients)):
                alone = torch.cat([each[place][number] for each in wanted])
                assert torch.allclose(name, alone, atol=1e-12)


@pytest.mark.parametrize("family", KINDS)
def test_new_weights_stand_where_the_place_is(family):
    settings, projections = KINDS[family]
    backbone = double(family, **settings)
    places = find_places(backbone, [1], projections)
    rows = rows_of(backbone, [encode_fact(backbone, fact) for fact in taught_facts()[:2]])
    inputs = read_inputs(backbone, places, rows)
    step = {p: torch.randn(p.weight.shape).double() for p in places}
    outputs = {p: p.block.module(inputs[p]) for p in places}
    masters = {p.parameter: p.block.module.weight.detach() for p in places}
    new = changed({p: p.weight + step[p] for p in places}, masters)
    with WeightEdits(backbone).written(new):
        for place in places:
            first = place.block.first
            moved = (place.block.module(inputs[place]) - outputs[place])[
                ..., first : first + place.block.out_features
            ]
            assert torch.allclose(moved, inputs[place] @ step[place].T, atol=1e-10)


def test_what_is_no_place():
    backbone = make_backbone()
    for layers, message in (
        ([2], r"layers must be in 0\.\.1 for tiny-llama-0, got 2"),
        ([-1], r"layers must be in 0\.\.1"),
        ([], "at least one layer"),
        ([0, 0], "each once"),
    ):
        with pytest.raises(SettingValueError, match=message):
            find_places(backbone, layers)
    with pytest.raises(SettingValueError, match="projections must be one of"):
        find_places(backbone, [0], ["q"])
    with pytest.raises(UnsupportedBackboneError, match="a linear map 'gate'"):
        find_places(make_backbone("gpt2"), [0], ["gate"])
    with pytest.raises(UnsupportedBackboneError, match=r"OlmoeSparseMoeBlock .* cannot write"):
        find_places(make_backbone("olmoe", **MOE), [0])


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gptj", "gpt_neox", "olmo2", "gemma2"])
def test_a_norm_behind_the_ffn_is_noticed(family):
    backbone = make_backbone(family, **FAMILIES[family][1])
    (place,) = find_places(backbone, [0])
    if family in ("olmo2", "gemma2"):
        with pytest.raises(UnsupportedBackboneError, match="as it is, got one that changes it"):
            check_adds(backbone, place)
    else:
        check_adds(backbone, place)


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_a_massive_activation_is_no_norm_behind_the_ffn(family):
    """SmolLM2's first token has an entry of some thousands, which bfloat16 rounds coarsely."""
    backbone = make_backbone(family, **{**FAMILIES[family][1], "hidden_size": 1024})
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[0, 57] = 5000.0
    backbone.model.bfloat16()
    (place,) = find_places(backbone, [1])
    if family == "granite":
        with pytest.raises(UnsupportedBackboneError, match="changes it first"):
            check_adds(backbone, place)
    else:
        check_adds(backbone, place)


def test_a_residual_multiplier_is_noticed():
    backbone = make_backbone("granite", **FAMILIES["granite"][1])
    with pytest.raises(UnsupportedBackboneError, match="changes it first"):
        check_adds(backbone, find_places(backbone, [1])[0])


def test_rows_without_targets_have_no_labels(tiny_backbone):
    rows = make_rows(tiny_backbone, [[5, 6], [7]], [[], []])
    assert rows.predicting[0].numel() == 0
    assert rows.mask.sum(1).tolist() == [2, 1]
