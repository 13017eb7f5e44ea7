"""Experts beside the FFN: exact formula, no trace after removal, right in generate()."""

from __future__ import annotations

import pytest
import torch

from backbone.decoding import greedy_decode
from genpoe.experts import Experts
from genpoe.injection import ExpertLayer
from tests.helpers.tiny import make_backbone

PROMPTS = ["Question: a\nAnswer:", "Question: Where was Tova Blick born?\nAnswer:", "b c\nAnswer:"]


def random_experts(sets, count=2, width=32, rank=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tall, wide = (sets, count, width, rank), (sets, count, rank, width)
    return Experts(*(0.5 * torch.randn(s, generator=generator) for s in (tall, wide, tall, wide)))


def test_adds_the_experts_output_to_the_ffns(tiny_backbone):
    experts, weights = random_experts(2), torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    layer = ExpertLayer(tiny_backbone, 1)
    hidden = torch.randn(2, 5, 32)
    ffn = tiny_backbone.ffn(1)
    plain = ffn(hidden)
    with layer.injected(experts, weights):
        mixed = ffn(hidden)
    for b in range(2):
        expected = plain[b].clone()
        for k in range(2):
            up1, up2, down1, down2 = (factor[b, k] for factor in experts.factors)
            expected += weights[b, k] * (torch.relu(hidden[b] @ up1 @ up2) @ down1 @ down2)
        torch.testing.assert_close(mixed[b], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_removal_leaves_the_backbone_bit_identical(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    ids = torch.randint(3, 300, (2, 6))
    before = backbone.model(ids).logits
    state = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    layer = ExpertLayer(backbone, 0)
    layer.inject(random_experts(2), torch.full((2, 2), 0.5))
    during = backbone.model(ids).logits
    layer.inject(random_experts(2, seed=1), torch.full((2, 2), 0.5))  # replaces, never adds up
    layer.remove()
    layer.remove()
    assert not torch.equal(before, during)
    assert torch.equal(backbone.model(ids).logits, before)
    assert all(torch.equal(state[n], t) for n, t in backbone.model.state_dict().items())


def test_zero_experts_change_no_bit(tiny_backbone):
    ids = torch.randint(3, 300, (2, 6))
    before = tiny_backbone.model(ids).logits
    up1, up2, down1, down2 = random_experts(2).factors
    zero = Experts(up1, up2, down1, torch.zeros_like(down2))
    with ExpertLayer(tiny_backbone, 0).injected(zero, torch.full((2, 2), 0.5)):
        assert torch.equal(tiny_backbone.model(ids).logits, before)


def test_an_error_inside_removes_the_experts(tiny_backbone):
    layer = ExpertLayer(tiny_backbone, 0)
    with pytest.raises(RuntimeError), layer.injected(random_experts(1), torch.ones(1, 2)):
        raise RuntimeError
    assert not layer.active


def test_every_row_of_a_generated_batch_has_its_own_experts(tiny_backbone):
    """Permuting a batch permutes its outputs, and a row alone decodes as among others."""
    experts, weights = random_experts(3), torch.rand(3, 2).softmax(-1)
    layer = ExpertLayer(tiny_backbone, 1)
    with layer.injected(experts, weights):
        together = greedy_decode(tiny_backbone, PROMPTS, 8).texts
    order = torch.tensor([2, 0, 1])
    with layer.injected(experts.map(lambda f: f[order]), weights[order]):
        permuted = greedy_decode(tiny_backbone, [PROMPTS[i] for i in order], 8).texts
    assert permuted == [together[i] for i in order]
    for i, prompt in enumerate(PROMPTS):
        with layer.injected(experts.map(lambda f, i=i: f[i : i + 1]), weights[i : i + 1]):
            assert greedy_decode(tiny_backbone, [prompt], 8).texts == [together[i]]
    assert greedy_decode(tiny_backbone, PROMPTS, 8).texts != together


def test_generate_with_a_cache_equals_recomputation(tiny_backbone):
    experts, weights = random_experts(1), torch.tensor([[0.5, 0.5]])
    with ExpertLayer(tiny_backbone, 0).injected(experts, weights):
        ids = torch.randint(3, 300, (1, 6))
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
        cached = tiny_backbone.model.generate(ids, use_cache=True, **settings)
        anew = tiny_backbone.model.generate(ids, use_cache=False, **settings)
    assert torch.equal(cached, anew)


def test_beams_share_their_questions_experts(tiny_backbone):
    with ExpertLayer(tiny_backbone, 0).injected(random_experts(2), torch.full((2, 2), 0.5)):
        ids = torch.randint(3, 300, (2, 6))
        out = tiny_backbone.model.generate(ids, max_new_tokens=3, num_beams=2, pad_token_id=2)
    assert out.shape[0] == 2


def test_a_layer_out_of_range_is_an_error(tiny_backbone):
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.1"):
        ExpertLayer(tiny_backbone, 2)
