"""Passages of other questions, beside a question's own or in its place.

With several passages a reader learns to find the right one, and with wrong ones to say nothing.

Shapes: N questions, P passages of a batch, G groups of questions, C candidates, K passages a
question, A gold passages of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Candidates:
    """The passages of others that each question may get.

    Attributes:
        index_NC: Their indices among the passages of the batch.
        allowed_NC: False for those that are a question's own after all.
        first: How many of them, from the left, come before all others: those that resemble the own
            passage.
    """

    index_NC: Tensor
    allowed_NC: Tensor
    first: int = 0


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
        index, weight, wrong_N = with_others(rows, candidates(batch), most, noise, wrong)
    if "also" in batch:
        index, weight = with_further(index, weight, batch["also"])
    return index, weight, wrong_N


def num_groups(batch: dict[str, Any]) -> int:
    """The number of passages of a batch without those that stand behind: further and hard ones."""
    found = next((batch[name] for name in ("also", "hard") if name in batch), None)
    return len(batch["passage_input_ids"] if found is None else found)


def candidates(batch: dict[str, Any]) -> Candidates:
    """The passages of others in a batch: first the hard ones of a question's group, if any.

    A passage may belong to several groups: as one of two gold passages, or with and without itself
    in the prompt. A group that has one of a question's own passages is no candidate.
    """
    rows_N: Tensor = batch["rows"]
    G, which_P = num_groups(batch), batch["which"]
    gold_PA = which_P[:, None]
    if "also" in batch:  # only the first passage of a group brings others with it
        also_GA = batch["also"]
        also_GA = torch.where(also_GA >= 0, which_P[also_GA.clamp(min=0)], -1)
        behind = (0, 0, 0, len(which_P) - G)
        gold_PA = torch.cat([gold_PA, functional.pad(also_GA, behind, value=-1)], 1)
    own_NA = gold_PA[rows_N]
    others_NC = (rows_N[:, None] + 1 + torch.arange(G - 1, device=rows_N.device)) % G
    allowed_NC = ~_shared(gold_PA[others_NC], own_NA)
    if "hard" not in batch:
        return Candidates(others_NC, allowed_NC)
    hard_NH = batch["hard"][rows_N]
    twice_NC = (others_NC[..., None] == hard_NH[:, None]).any(-1)
    allowed_NH = (hard_NH >= 0) & ~_shared(gold_PA[hard_NH.clamp(min=0)], own_NA)
    return Candidates(
        torch.cat([hard_NH.clamp(min=0), others_NC], 1),
        torch.cat([allowed_NH, allowed_NC & ~twice_NC], 1),
        hard_NH.shape[1],
    )


def _shared(gold_NCA: Tensor, own_NA: Tensor) -> Tensor:
    """Whether any passage of each candidate is one of the question's own; -1 is no passage."""
    same = gold_NCA[..., None] == own_NA[:, None, None]
    return (same & (gold_NCA >= 0)[..., None]).any(-1).any(-1)


def with_others(
    rows_N: Tensor, others: Candidates, most: int, noise: torch.Generator, wrong: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each question its own passage and some of the others.

    Some questions get one of the others in the place of their own.

    Each of the others is there in half of the cases. The relevance is random; that of the own
    passage is on average as large as that of any other that is there.

    Args:
        rows_N: The index of each question's own passage.
        others: The passages of others.
        most: The largest number of others; K is one more, or 1 + C if there are fewer.
        noise: Draws all random numbers.
        wrong: The share of the questions, 0 to 1, that do not get their own passage. A question
            without candidates always gets it.

    Returns:
        The indices of the passages and their relevance, which sums to 1, both ``[N, K]``; and which
        questions have only wrong passages, bool ``[N]``.
    """
    device, N = rows_N.device, len(rows_N)
    key_NC = torch.rand(others.index_NC.shape, generator=noise, device=device)
    if others.first:
        key_NC[:, others.first :] += 1
    order_NC = (key_NC + 2 * ~others.allowed_NC).argsort(1)
    index_NC, allowed_NC = (
        each.gather(1, order_NC) for each in (others.index_NC, others.allowed_NC)
    )
    index_NK = torch.cat([rows_N[:, None], index_NC[:, :most]], 1)
    there = torch.rand(index_NK.shape, generator=noise, device=device) < 0.5
    there[:, 0] = True
    there[:, 1:] &= allowed_NC[:, :most]
    wrong_N = torch.zeros(N, dtype=torch.bool, device=device)
    if wrong and index_NC.shape[1]:
        drawn_N = torch.rand(N, generator=noise, device=device) < wrong
        wrong_N = drawn_N & allowed_NC[:, 0]
        index_NK[:, 0] = torch.where(wrong_N, index_NC[:, 0], rows_N)
        there[:, 1:2] &= ~wrong_N[:, None]  # it stands in the first place already
    weight_NK = torch.randn(index_NK.shape, generator=noise, device=device).exp() * there
    return index_NK, weight_NK / weight_NK.sum(1, keepdim=True), wrong_N


def with_further(index_NK: Tensor, weight_NK: Tensor, also_GA: Tensor) -> tuple[Tensor, Tensor]:
    """Give each question the further gold passages of its first one, each as relevant as that.

    Args:
        index_NK: The indices of each question's passages; the first one decides. Those from G on
            are no first ones of a group, and have no further passages.
        weight_NK: Their relevance.
        also_GA: The indices of the further gold passages that belong to each group, -1 for none.

    Returns:
        The indices and their relevance, which sums to 1, both ``[N, K + A]``.
    """
    first_N, G = index_NK[:, 0], len(also_GA)
    further_NA = also_GA[first_N.clamp(max=G - 1)].where((first_N < G)[:, None], -1)
    weights = torch.cat([weight_NK, weight_NK[:, :1] * (further_NA >= 0)], 1)
    return torch.cat([index_NK, further_NA.clamp(min=0)], 1), weights / weights.sum(1, keepdim=True)
