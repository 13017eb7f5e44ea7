"""The hypernetwork: shapes, a zero start, the scaling of its input."""

from __future__ import annotations

import pytest
import torch

from genpoe.experts import mix_experts
from genpoe.hypernet import Hypernet, PassageScaler, mean_pool


def test_mean_pool_leaves_padding_out():
    embedded = torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.stack([embedded[0, :3].mean(0), embedded[1].mean(0)])
    torch.testing.assert_close(mean_pool(embedded, mask), expected)


def test_shapes_and_zero_start():
    hypernet = Hypernet(d_model=8, rank=3, hidden_width=5, embedding_scaling="none")
    experts = hypernet(torch.randn(4, 8))
    assert experts.up1.shape == experts.down1.shape == (4, 1, 8, 3)
    assert experts.up2.shape == experts.down2.shape == (4, 1, 3, 8)
    added = mix_experts(torch.randn(4, 7, 8), experts, torch.ones(4, 1))
    assert torch.equal(added, torch.zeros_like(added))
    other_factors = torch.cat([f.flatten(1) for f in experts.factors[:3]], 1)
    assert other_factors.std(0).min() > 0  # passages differ from the first step


def test_llama2_7b_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        hypernet = Hypernet(d_model=4096, rank=512, hidden_width=128)
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be positive, got 0; set model.rank"),
        ({"hidden_width": -1}, "hidden_width must be positive, got -1; set model.hidden_width"),
        (
            {"embedding_scaling": "zca"},
            "embedding_scaling must be one of none, standardize, whiten",
        ),
    ],
)
def test_bad_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Hypernet(**{"d_model": 4, "rank": 2, "hidden_width": 2, **settings})
