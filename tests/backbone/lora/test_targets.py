"""The places of an adapter in dense backbones and in mixtures of experts."""

from __future__ import annotations

import copy

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.lora.targets import lora_targets
from backbone.model import Backbone, UnsupportedBackboneError
from tests.helpers.tiny import MOE, make_backbone


@pytest.fixture
def olmoe(tiny_tokenizer):
    return make_backbone("olmoe", tokenizer=tiny_tokenizer, **MOE)


def test_a_dense_ffn_has_its_projections_and_a_mixture_its_experts(tiny_backbone, olmoe):
    dense = lora_targets(tiny_backbone, ["gate", "down"])
    assert dense.parameters == []
    assert dense.modules == [
        f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "down")
    ]
    mixture = lora_targets(olmoe, ["gate", "up", "down"])
    assert mixture.modules == []
    assert mixture.parameters == [
        f"model.layers.{layer}.mlp.experts.{name}"
        for layer in (0, 1)
        for name in ("gate_up_proj", "down_proj")
    ]
    attention = lora_targets(olmoe, ["down", "attention"])
    assert len(attention.modules) == 8
    assert all(".self_attn." in name for name in attention.modules)


def test_gate_and_up_in_one_map_are_adapted_together(tiny_tokenizer):
    phi3 = make_backbone("phi3", tokenizer=tiny_tokenizer)
    found = lora_targets(phi3, ["gate", "up", "down"]).modules
    assert found == [
        f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate_up", "down")
    ]
    with pytest.raises(UnsupportedBackboneError, match=r"gate and up as one parameter"):
        lora_targets(phi3, ["gate"])


def test_experts_that_are_modules_are_found_too(tiny_backbone, tiny_tokenizer):
    model = copy.deepcopy(tiny_backbone.model)
    for layer in model.model.layers:
        layer.mlp = torch.nn.ModuleDict(
            {"experts": torch.nn.ModuleList([layer.mlp, copy.deepcopy(layer.mlp)])}
        )
    found = lora_targets(Backbone(model, tiny_tokenizer, "old"), ["up"]).modules
    assert found == [
        f"model.layers.{layer}.mlp.experts.{expert}.up_proj"
        for layer in (0, 1)
        for expert in (0, 1)
    ]


def test_what_fits_nothing_is_named(olmoe, tiny_tokenizer):
    with pytest.raises(
        UnsupportedBackboneError, match=r"gate and up as one parameter.*among the targets"
    ):
        lora_targets(olmoe, ["gate"])
    plain = make_backbone("gpt_neox", tokenizer=tiny_tokenizer)
    with pytest.raises(UnsupportedBackboneError, match="nothing in layer 0 for the target 'gate'"):
        lora_targets(plain, ["gate", "up"])
    assert len(lora_targets(plain, ["up", "down", "attention"]).modules) == 8
    with pytest.raises(UnsupportedBackboneError, match="is a sparse block"):
        FinalFFN(olmoe)
