"""The mixture of generated experts against the paper's formula, one row at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpoe.experts import Experts, mix_experts

D, R = 6, 3


def random_experts(sets, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tall, wide = (sets, count, D, R), (sets, count, R, D)
    return Experts(*(torch.randn(s, generator=generator) for s in (tall, wide, tall, wide)))


def naive(hidden_TD, experts, weights_K, b):
    """Eq. 2 and 6, written out for one question."""
    total = torch.zeros_like(hidden_TD)
    for k, weight in enumerate(weights_K):
        up1, up2, down1, down2 = (factor[b, k] for factor in experts.factors)
        total += weight * (torch.relu(hidden_TD @ up1 @ up2) @ down1 @ down2)
    return total


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)
)
def test_equals_the_formula(sets, count, repeats, tokens, seed):
    experts = random_experts(sets, count, seed)
    weights = torch.rand(sets, count).softmax(-1)
    hidden = torch.randn(sets * repeats, tokens, D)
    expected = torch.stack(
        [naive(h, experts, weights[i // repeats], i // repeats) for i, h in enumerate(hidden)]
    )
    torch.testing.assert_close(
        mix_experts(hidden, experts, weights), expected, rtol=1e-4, atol=1e-4
    )


def test_rows_may_choose_their_experts():
    experts, weights = random_experts(3, 2), torch.rand(3, 2)
    rows = torch.tensor([2, 0, 2, 1, 2])
    hidden = torch.randn(5, 4, D)
    expected = torch.stack(
        [naive(h, experts, weights[r], r) for h, r in zip(hidden, rows, strict=True)]
    )
    actual = mix_experts(hidden, experts, weights, rows)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_set_that_no_row_uses_gets_no_gradient():
    experts = random_experts(3, 1).map(lambda factor: factor.requires_grad_())
    mix_experts(
        torch.randn(2, 4, D), experts, torch.ones(3, 1), torch.tensor([0, 2])
    ).sum().backward()
    assert all(torch.count_nonzero(f.grad[1]) == 0 for f in experts.factors)
    assert torch.count_nonzero(experts.down2.grad[0]) > 0


@pytest.mark.parametrize(
    ("rows", "weights", "chosen", "message"),
    [
        (4, (2, 3), None, r"shape \[B, K\] = \[3, 2\]"),
        (4, (3, 2), None, "3 expert sets cannot serve 4 rows evenly"),
        (4, (3, 2), torch.tensor([0, 1]), "one expert set for each of 4 rows"),
    ],
)
def test_shapes_that_disagree_are_errors(rows, weights, chosen, message):
    with pytest.raises(ValueError, match=message):
        mix_experts(torch.randn(rows, 2, D), random_experts(3, 2), torch.ones(weights), chosen)
