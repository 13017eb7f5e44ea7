"""The cache with room to grow holds what Hugging Face's own holds, whatever is done to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from backbone.kv_cache import make_cache
from tests.helpers.tiny import make_backbone


def states(cache):
    return [(layer.keys, layer.values) for layer in cache.layers]


@pytest.fixture(params=["llama", "gemma2"])
def backbone(request):
    return make_backbone(request.param)


@torch.inference_mode()
def test_it_is_hugging_faces_cache(backbone):
    ours, theirs = make_cache(backbone.model), DynamicCache(config=backbone.model.config)

    def read(ids):
        logits = [
            backbone.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            for cache in (ours, theirs)
        ]
        torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
        torch.testing.assert_close(states(ours), states(theirs), rtol=0, atol=1e-5)

    generator = torch.Generator().manual_seed(0)

    def some(rows, tokens):
        return torch.randint(3, backbone.vocab_size, (rows, tokens), generator=generator)

    read(some(2, 5))
    for _ in range(3):
        read(some(2, 1))
    for cache in (ours, theirs):
        cache.batch_repeat_interleave(2)
    read(some(4, 1))
    for cache in (ours, theirs):
        cache.batch_select_indices(torch.tensor([3, 0]))
    read(some(2, 90))  # more than there is room for
    if not any(getattr(layer, "is_sliding", False) for layer in ours.layers):
        for cache in (ours, theirs):
            cache.crop(-7)
        read(some(2, 3))


@torch.inference_mode()
def test_a_new_token_is_written_behind_the_others_which_stay_where_they_are(backbone):
    cache = make_cache(backbone.model)
    backbone.model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache)
    full: list[Any] = [layer for layer in cache.layers if not getattr(layer, "is_sliding", False)]
    before = [layer.keys.data_ptr() for layer in full]
    backbone.model(input_ids=torch.tensor([[4]]), past_key_values=cache)
    assert [layer.keys.data_ptr() for layer in full] == before


@torch.inference_mode()
def test_a_copy_goes_on_alone(backbone):
    cache = make_cache(backbone.model)
    backbone.model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache)
    kept = copy.deepcopy(states(cache))
    other = copy.deepcopy(cache)
    backbone.model(input_ids=torch.tensor([[4, 5]]), past_key_values=other)
    torch.testing.assert_close(states(cache), kept, rtol=0, atol=0)
