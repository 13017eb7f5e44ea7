"""The backbone cut below a layer: the two parts are the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.model import UnsupportedBackboneError
from backbone.split import SplitBackbone, Trunk, same_states
from tests.helpers.tiny import make_backbone


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_two_parts_make_the_whole(family, layer, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer, num_hidden_layers=3)
    split = SplitBackbone(backbone, layer)
    ids = torch.randint(3, 300, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    whole = backbone.hidden_states(ids, mask)
    assert torch.equal(split.above(split.below(ids, mask), mask), whole)


def test_a_decoder_that_cannot_be_cut_is_refused(tiny_tokenizer):
    backbone = make_backbone("gptj", tokenizer=tiny_tokenizer, rotary_dim=4)
    with pytest.raises(UnsupportedBackboneError, match=r"cut below a layer.*cache_frozen=false"):
        SplitBackbone(backbone, 1)


def test_a_decoder_that_cannot_read_a_tree_is_refused(tiny_tokenizer):
    layers: dict[str, Any] = {
        "layer_types": ["full_attention", "conv"]
    }  # a convolution reads its neighbours
    backbone = make_backbone("lfm2", tokenizer=tiny_tokenizer, **layers)
    with pytest.raises(UnsupportedBackboneError, match="reads a tree of tokens"):
        Trunk(FinalFFN(backbone))


def test_an_entry_that_dwarfs_the_others_decides_how_near_states_are():
    """Rounding is of its size, and far larger than the smallest entries of the same state."""
    states = torch.tensor([[6e3, 1.0, 2.0]])
    assert same_states(states, states + torch.tensor([[0.0, 0.2, 0.0]]))
    assert not same_states(states, states + torch.tensor([[6.0, 0.0, 0.0]]))
    assert not same_states(states[:, 1:], states[:, 1:] + torch.tensor([[0.2, 0.0]]))


def test_states_that_are_not_finite_are_a_difference():
    states = torch.ones(2, 3)
    assert same_states(states, states.clone())
    assert not same_states(states, states * float("nan"))
    assert not same_states(states, states + torch.tensor([[0.0], [1e-3]]))


@pytest.mark.parametrize("layer", [0, -1])
def test_something_must_lie_below_the_cut(layer, tiny_backbone):
    with pytest.raises(ValueError, match=rf"nothing lies below layer 0, got layer={layer}; set"):
        SplitBackbone(tiny_backbone, layer)
