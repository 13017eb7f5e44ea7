"""Noise in the place of experts moves the FFN's output as far as they do."""

from __future__ import annotations

import pytest
import torch

from backbone.final_ffn import FinalFFN
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.controls import NoiseExperts
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.tiny import make_backbone

IDS = [["p4"], ["p1", "p0", "p7"], [], ["p0", "p1"]]


def changes(backbone, weights=None, seed=0):
    """How experts, and noise in their place, change the FFN's outputs for inputs held out."""
    final = FinalFFN(backbone)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(len(IDS), 6, backbone.d_model, generator=generator).to(backbone.dtype)
    found = []
    experts = ActiveExperts(final, MemoryExperts(backbone), len(IDS), 3)
    for active in (experts, NoiseExperts(final, experts, seed)):
        active.swap(range(len(IDS)), IDS, weights)
        with active.attached():
            moved = final.ffn(inputs)
        rows = torch.tensor([1, 0])
        with active.attached(rows):
            # Some processors round six positions at once differently from one.
            tolerance = 1.6e-2 if moved.dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(
                final.ffn(inputs[rows, 3]), moved[rows, 3], rtol=tolerance, atol=tolerance
            )
        found.append(moved.float() - final.ffn(inputs).float())
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_noise_moves_the_output_as_far_as_the_experts_at_every_position(family):
    experts, noise = changes(make_backbone(family))
    sizes, noisy = experts.norm(dim=-1), noise.norm(dim=-1)
    torch.testing.assert_close(noisy, sizes, rtol=1e-4, atol=1e-4)
    assert not noise[2].any()  # where no expert acts
    assert sizes[[0, 1, 3]].min() > 0.1
    similar = torch.cosine_similarity(experts, noise, dim=-1)[[0, 1, 3]]
    assert similar.abs().mean() < 0.3
    assert not torch.equal(changes(make_backbone(family), seed=1)[1], noise)


def test_noise_in_half_precision_has_the_size_to_a_percent():
    backbone = make_backbone()
    backbone.model.to(torch.bfloat16)
    experts, noise = changes(backbone)
    assert (noise.norm() / experts.norm()).item() == pytest.approx(1, abs=0.01)


def test_noise_has_the_size_of_weighted_experts():
    backbone = make_backbone()
    weights = [[1.0], [0.8, 0.1, 0.1], [], [0.5, 0.5]]
    experts, noise = changes(backbone, weights)
    torch.testing.assert_close(noise.norm(dim=-1), experts.norm(dim=-1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(noise.norm(dim=-1), changes(backbone)[1].norm(dim=-1))


def test_nothing_is_left_on_the_backbone():
    backbone = make_backbone()
    final = FinalFFN(backbone)
    x = torch.randn(1, backbone.d_model)
    before = final.ffn(x)
    active = NoiseExperts(final, ActiveExperts(final, MemoryExperts(backbone), 1, 1))
    active.swap([0], [["p1"]])
    with active.attached():
        assert not torch.equal(final.ffn(x), before)
    assert torch.equal(final.ffn(x), before)
    with pytest.raises(RuntimeError), active.attached():
        final.ffn(x[:, :3])  # too narrow
    assert torch.equal(final.ffn(x), before)
