"""Noise keeps the size of a change at every position, and nothing of its direction."""

from __future__ import annotations

import torch

from qa.noise import RandomTurns

WIDTH = 512
CHANGE = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def test_every_norm_is_kept_and_no_direction():
    turned = RandomTurns(["a", "b", "c"], WIDTH, seed=0)(CHANGE)
    torch.testing.assert_close(turned.norm(dim=-1), CHANGE.norm(dim=-1))
    assert torch.cosine_similarity(turned, CHANGE, dim=-1).abs().max() < 0.2
    ones = torch.ones(3, WIDTH)  # the signs are drawn as well, not only the order
    assert RandomTurns(["a", "b", "c"], WIDTH, 0)(ones).mean().abs() < 0.2


def test_a_row_has_a_rotation_of_its_own_that_no_other_row_changes():
    turned = RandomTurns(["a", "b", "a"], WIDTH, seed=0)(CHANGE[:1].expand(3, -1, -1))
    assert torch.equal(turned[0], turned[2])
    assert not torch.equal(turned[0], turned[1])
    assert torch.equal(RandomTurns(["b"], WIDTH, seed=0)(CHANGE[:1])[0], turned[1])
    assert not torch.equal(RandomTurns(["b"], WIDTH, seed=1)(CHANGE[:1])[0], turned[1])


def test_changes_at_one_position_turn_as_those_of_many():
    turns = RandomTurns(["a", "b", "c"], WIDTH, seed=0)
    assert torch.equal(turns(CHANGE[:, 2]), turns(CHANGE)[:, 2])


def test_one_rotation_serves_consecutive_rows():
    turned = RandomTurns(["a", "b"], WIDTH, seed=0)(CHANGE[:1].expand(4, -1, -1))
    assert torch.equal(turned[0], turned[1])
    assert torch.equal(turned[2], turned[3])
    assert not torch.equal(turned[1], turned[2])
