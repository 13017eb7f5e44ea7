"""GRACE's radius: a distance between what should be answered alike and what should not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Radius:
    """A radius between rephrasings and strangers.

    Attributes:
        radius: The distance.
        missed: The share of rephrasings that are further away.
        hit: The share of strangers that are not.
    """

    radius: float
    missed: float
    hit: float


def radius_between(rephrasings: Tensor, strangers: Tensor) -> Radius:
    """The distance that as many rephrasings exceed as strangers do not, by their shares.

    It is the quantile 1 - q of the rephrasings' distances and the quantile q of the strangers',
    with the q at which the two are the same.

    Args:
        rephrasings: Distances between a fact's prompt and its rephrasing ``[n]``.
        strangers: Distances between a rephrasing and the nearest prompt of another fact ``[m]``.
    """
    candidates = torch.cat([rephrasings, strangers]).sort().values
    ends = torch.cat([candidates[1:], candidates[-1:]])
    middles = (candidates + ends) / 2
    missed = (rephrasings[:, None] > middles).double().mean(0)
    hit = (strangers[:, None] <= middles).double().mean(0)
    best = int((missed - hit).abs().argmin())
    return Radius(float(middles[best]), float(missed[best]), float(hit[best]))


def radius_of(keys: Tensor, rephrasings: Tensor) -> Radius:
    """The radius for some keys and the queries of one rephrasing of each, both ``[n, i]``."""
    distances = torch.cdist(rephrasings.double(), keys.double())
    own = torch.eye(len(keys), dtype=torch.bool, device=keys.device)
    return radius_between(distances[own], distances.masked_fill(own, torch.inf).amin(1))
