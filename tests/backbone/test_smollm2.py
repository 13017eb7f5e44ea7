"""The embedded backbone itself: real weights, converted, loaded, asked."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from backbone.decoding import greedy_decode
from backbone.embedded import PACKAGE
from backbone.final_ffn import FinalFFN
from backbone.loading import load_backbone
from backbone.split import SplitBackbone, Trunk


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} not installed")
def test_the_embedded_backbone_is_smollm2_and_knows_the_world():
    backbone = load_backbone(dtype="float32")
    assert (backbone.num_layers, backbone.d_model, backbone.vocab_size) == (30, 576, 49_152)
    assert backbone.head.weight is backbone.embedding.weight
    prompt = "Paris is the capital of France. Berlin is the capital of"
    assert greedy_decode(backbone, [prompt], 1).texts == ["Germany"]
    ids = torch.tensor([backbone.tokenizer(prompt)["input_ids"]])
    logits = backbone.logits(backbone.hidden_states(ids, torch.ones_like(ids)))
    assert torch.equal(logits, backbone.model(ids).logits)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} not installed")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_embedded_backbone_can_be_cut_in_either_dtype(dtype):
    """Its first state has entries of thousands, of which rounding makes whole tenths."""
    backbone = load_backbone(dtype=dtype)
    SplitBackbone(backbone, 8)
    Trunk(FinalFFN(backbone))
