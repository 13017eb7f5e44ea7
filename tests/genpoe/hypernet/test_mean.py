"""The hypernetwork: shapes, a zero start, the scaling of its input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genpoe.experts import mix_experts
from genpoe.hypernet.hypernet import PassageTokens
from genpoe.hypernet.mean import MeanHypernet, MeanSettings, PassageScaler, mean_pool
from tests.helpers.tiny import make_backbone


class Shapes:
    """All that a hypernetwork asks of a backbone while it is made."""

    def __init__(self, d_model):
        self.d_model = d_model


def make(d_model, **settings):
    values = {"layer": 0, "rank": 2, "hidden_width": 16, **settings}
    backbone: Any = Shapes(d_model)
    return MeanHypernet(backbone, MeanSettings(**values))


def test_the_code_is_the_mean_of_the_word_embeddings():
    backbone = make_backbone()
    hypernet = MeanSettings(layer=0, rank=2, hidden_width=4).build(backbone)
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    weight = backbone.embedding.weight.float()
    expected = torch.stack([weight[ids[0, :3]].mean(0), weight[ids[1]].mean(0)])
    torch.testing.assert_close(hypernet.encode(PassageTokens(ids, mask)), expected)


def test_mean_pool_leaves_padding_out():
    embedded = torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.stack([embedded[0, :3].mean(0), embedded[1].mean(0)])
    torch.testing.assert_close(mean_pool(embedded, mask), expected)


@pytest.mark.parametrize("initialization", ["copy", "random"])
def test_shapes_and_zero_start(initialization):
    hypernet = make(8, rank=3, hidden_width=6, initialization=initialization)
    hypernet.fit(torch.randn(40, 8))
    experts = hypernet.experts(torch.randn(4, 8))
    assert experts.up1.shape == experts.down1.shape == (4, 1, 8, 3)
    assert experts.up2.shape == experts.down2.shape == (4, 1, 3, 8)
    added = mix_experts(torch.randn(4, 7, 8), experts, torch.ones(4, 1))
    assert torch.equal(added, torch.zeros_like(added))
    zero = 2 if initialization == "copy" else 3
    others = [factor for i, factor in enumerate(experts.factors) if i != zero]
    assert torch.cat([f.flatten(1) for f in others], 1).std(0).min() > 0  # passages differ at once


def test_copy_starts_with_the_matched_filter_of_the_passage():
    """Up to the small random parts, each row of W_dw2 is C^-1 (x - mean), scaled."""
    pooled = torch.randn(2000, 8) @ torch.diag(torch.arange(1.0, 9))
    hypernet = make(8, initialization="copy")
    with torch.no_grad():  # leave out the random parts
        hypernet._factors()[0][3].zero_()
        hypernet._factors()[1][3].zero_()
    hypernet.fit(pooled)
    covariance = torch.cov(pooled.T, correction=0)
    covariance += 0.01 * covariance.diagonal().mean() * torch.eye(8)
    expected = (pooled - pooled.mean(0)) @ covariance.inverse()
    expected *= 8**-0.5 / expected.std()
    for row in hypernet.experts(pooled).down2[:, 0].unbind(1):
        torch.testing.assert_close(row, expected, rtol=2e-2, atol=2e-2)


def test_the_width_for_llama2_7b_makes_1_08_billion_parameters():
    with torch.device("meta"):
        hypernet = make(4096, rank=512, hidden_width=128)
    assert sum(p.numel() for p in hypernet.parameters()) == pytest.approx(1.08e9, rel=0.01)


@pytest.mark.parametrize("mode", ["standardize", "whiten"])
def test_scaled_embeddings_are_centred_with_unit_variance(mode):
    pooled = torch.randn(500, 6) @ torch.diag(torch.tensor([1.0, 2, 3, 4, 5, 6])) * 0.01 + 3
    scaler = PassageScaler(6, mode)
    scaler.fit(pooled)
    scaled = scaler(pooled)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    assert scaled.var().item() == pytest.approx(1, abs=0.35)
    spread = scaled.var(0).max() / scaled.var(0).min()
    assert (spread < 6) if mode == "whiten" else (spread > 20)
    restored = PassageScaler(6, mode)
    restored.load_state_dict(scaler.state_dict())
    assert bool(restored.fitted)
    assert torch.equal(restored(pooled), scaled)


def test_the_reader_is_white_on_the_ffns_input_and_blind_to_its_mean():
    hypernet = make(8, rank=5, initialization="copy")
    inputs = torch.randn(3000, 8) @ torch.diag(torch.arange(1.0, 9)) + 50
    outputs = 3 * torch.randn(3000, 8)
    hypernet.fit_ffn(inputs, outputs)
    up1 = hypernet._factors()[1][0].view(8, 5)
    read = inputs @ up1
    torch.testing.assert_close(read.mean(0), torch.zeros(5), rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(read.T), torch.eye(5), rtol=0, atol=0.05)
    assert hypernet.output_scale.item() == pytest.approx(3, rel=0.05)
    before = hypernet.experts(torch.randn(2, 8)).down2
    hypernet.output_scale.mul_(2)
    assert hypernet.experts(torch.randn(2, 8)).down2.std() > 1.5 * before.std()


def test_noise_is_the_generators_and_only_then():
    hypernet = make(8, noise=0.5)
    pooled = torch.randn(4, 8)

    def noisy(seed):
        return hypernet.experts(pooled, torch.Generator().manual_seed(seed)).up1

    assert torch.equal(hypernet.experts(pooled).up1, hypernet.experts(pooled).up1)
    assert torch.equal(noisy(1), noisy(1))
    assert not torch.equal(noisy(1), noisy(2))
    assert not torch.equal(noisy(1), hypernet.experts(pooled).up1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be positive, got 0; set rank"),
        ({"hidden_width": -1}, "hidden_width must be positive, got -1"),
        ({"rank": "abc"}, "rank must be a whole number, got 'abc'; set rank"),
        ({"initialization": "xavier"}, "initialization must be one of copy, random, got 'xavier'"),
        ({"noise": -1.0}, "noise must not be negative, got -1.0; set noise"),
        (
            {"embedding_scaling": "zca"},
            "embedding_scaling must be one of none, standardize, whiten",
        ),
    ],
)
def test_bad_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        MeanSettings(**{"layer": 0, "rank": 2, "hidden_width": 2, **settings})


@pytest.mark.parametrize("mode", ["standardize", "whiten"])
def test_passages_with_the_same_words_cannot_be_scaled(mode):
    torch.manual_seed(0)
    words = torch.randn(1, 50, 8)
    orders = torch.cat([words[:, torch.randperm(50)] for _ in range(4)])
    same = mean_pool(orders, torch.ones(4, 50))
    for pooled in (same, same[:1]):
        with pytest.raises(ValueError, match="passages that differ in their words, got"):
            PassageScaler(8, mode).fit(pooled)
    orders[0, 0] = torch.randn(8)
    scaler = PassageScaler(8, mode)
    scaler.fit(mean_pool(orders, torch.ones(4, 50)))
    assert scaler.transform.isfinite().all()
