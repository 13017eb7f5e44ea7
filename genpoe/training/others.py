"""Passages of other questions beside a question's own, so that training has more than one.

Shapes: N questions, P passages of a batch, K passages a question.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_others(
    rows_N: Tensor, passages: int, most: int, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give each question its own passage and some of the others' of the batch.

    Each of the others is there in half of the cases. The relevance is random; that of the own
    passage is on average as large as that of any other that is there.

    Args:
        rows_N: The index of each question's own passage.
        passages: P, the number of passages.
        most: The largest number of others; K is one more, or P if there are fewer.
        noise: Draws all random numbers.

    Returns:
        The indices of the passages and their relevance, which sums to 1, both ``[N, K]``.
    """
    device, N = rows_N.device, len(rows_N)
    order = torch.rand(N, passages - 1, generator=noise, device=device).argsort(1)[:, :most]
    index_NK = torch.cat([rows_N[:, None], (rows_N[:, None] + 1 + order) % passages], 1)
    there = torch.rand(index_NK.shape, generator=noise, device=device) < 0.5
    there[:, 0] = True
    weight_NK = torch.randn(index_NK.shape, generator=noise, device=device).exp() * there
    return index_NK, weight_NK / weight_NK.sum(1, keepdim=True)
