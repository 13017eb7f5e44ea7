"""Passages of other questions, beside a question's own or in its place.

With several passages a reader learns to find the right one, and with wrong ones to say nothing.

Shapes: N questions, P passages of a batch, K passages a question.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def choose_passages(
    batch: dict[str, Any], noise: torch.Generator | None, most: int = 0, wrong: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Which passages of a batch each question gets: all its gold ones, and in training others.

    Args:
        batch: What `genpoe.training.examples.Examples` makes.
        noise: Draws the others; None outside training, where there are none.
        most: The largest number of others that a question gets beside its own passages.
        wrong: The share of the questions, 0 to 1, that get others in the place of their own.

    Returns:
        The indices of the passages and their relevance, both ``[N, K]``; and which questions have
        only wrong passages, bool ``[N]``, or None outside training.
    """
    rows: Tensor = batch["rows"]
    index, weight, wrong_N = rows[:, None], torch.ones(len(rows), 1, device=rows.device), None
    if noise is not None:
        index, weight, wrong_N = with_others(rows, num_groups(batch), most, noise, wrong)
    if "also" in batch:
        index, weight = with_further(index, weight, batch["also"])
    return index, weight, wrong_N


def num_groups(batch: dict[str, Any]) -> int:
    """The number of passages of a batch without the further gold passages behind them."""
    return len(batch["also"] if "also" in batch else batch["passage_input_ids"])


def with_others(
    rows_N: Tensor, passages: int, most: int, noise: torch.Generator, wrong: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each question its own passage and some of the others' of the batch.

    Some questions get one of the others' in the place of their own.

    Each of the others is there in half of the cases. The relevance is random; that of the own
    passage is on average as large as that of any other that is there.

    Args:
        rows_N: The index of each question's own passage.
        passages: P, the number of passages.
        most: The largest number of others; K is one more, or P if there are fewer.
        noise: Draws all random numbers.
        wrong: The share of the questions, 0 to 1, that do not get their own passage. A batch of one
            passage has none.

    Returns:
        The indices of the passages and their relevance, which sums to 1, both ``[N, K]``; and which
        questions have only wrong passages, bool ``[N]``.
    """
    device, N = rows_N.device, len(rows_N)
    order = torch.rand(N, passages - 1, generator=noise, device=device).argsort(1)
    others = (rows_N[:, None] + 1 + order) % passages
    index_NK = torch.cat([rows_N[:, None], others[:, :most]], 1)
    there = torch.rand(index_NK.shape, generator=noise, device=device) < 0.5
    there[:, 0] = True
    wrong_N = torch.zeros(N, dtype=torch.bool, device=device)
    if wrong and passages > 1:
        wrong_N = torch.rand(N, generator=noise, device=device) < wrong
        index_NK[:, 0] = torch.where(wrong_N, others[:, 0], rows_N)
        there[:, 1:2] &= ~wrong_N[:, None]  # it stands in the first place already
    weight_NK = torch.randn(index_NK.shape, generator=noise, device=device).exp() * there
    return index_NK, weight_NK / weight_NK.sum(1, keepdim=True), wrong_N


def with_further(index_NK: Tensor, weight_NK: Tensor, also_PG: Tensor) -> tuple[Tensor, Tensor]:
    """Give each question the further gold passages of its first one, each as relevant as that.

    Args:
        index_NK: The indices of each question's passages; the first one decides.
        weight_NK: Their relevance.
        also_PG: The indices of the further gold passages that belong to each passage, -1 for none.

    Returns:
        The indices and their relevance, which sums to 1, both ``[N, K + G]``.
    """
    further_NG = also_PG[index_NK[:, 0]]
    weights = torch.cat([weight_NK, weight_NK[:, :1] * (further_NG >= 0)], 1)
    return torch.cat([index_NK, further_NG.clamp(min=0)], 1), weights / weights.sum(1, keepdim=True)
