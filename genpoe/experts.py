"""Passage experts: low-rank feed-forward networks beside the frozen FFN (GenPoE sec. 3.1).

Shapes: N rows (questions), B expert sets, K experts a set, T tokens, D d_model, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Experts:
    """The generated parameters of K experts for each of B questions (theta_E of GenPoE eq. 2).

    Attributes:
        up1: ``W_up1`` ``[B, K, D, R]``.
        up2: ``W_up2`` ``[B, K, R, D]``.
        down1: ``W_dw1`` ``[B, K, D, R]``.
        down2: ``W_dw2`` ``[B, K, R, D]``.
    """

    up1: Tensor
    up2: Tensor
    down1: Tensor
    down2: Tensor

    @property
    def num_sets(self) -> int:
        """B, the number of sets of K experts."""
        return self.up1.shape[0]

    @property
    def num_experts(self) -> int:
        """K, the number of experts in one set."""
        return self.up1.shape[1]

    @property
    def rank(self) -> int:
        """R, the inner width of both factorisations."""
        return self.up1.shape[-1]

    def map(self, function) -> Experts:  # type: ignore[no-untyped-def]
        """Apply ``function`` to each of the four factors."""
        return Experts(*(function(factor) for factor in self.factors))

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four factors in the order of eq. 2."""
        return self.up1, self.up2, self.down1, self.down2


def mix_experts(
    hidden_NTD: Tensor, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None
) -> Tensor:
    """Weighted sum of the K experts' outputs (GenPoE eq. 6, second term; eq. 3 for K = 1).

    Each expert is ``ReLU(x W_up1 W_up2) W_dw1 W_dw2`` (eq. 2).

    Args:
        hidden_NTD: The FFN's input at the expert layer.
        experts: B sets of K experts. Without ``rows_N``, B must divide N, and each set serves
            N / B consecutive rows (one row for B = N).
        relevance_BK: Weights of the experts; each row sums to 1 (eq. 9).
        rows_N: The index of each row's expert set, where the sets serve unequal numbers of rows.

    Returns:
        The term to add to the FFN's output, shape ``[N, T, D]``, in the dtype of ``hidden_NTD``.

    Raises:
        ValueError: If the experts, the relevance and the rows disagree in shape.
    """
    rows, tokens, width = hidden_NTD.shape
    sets = experts.num_sets
    if relevance_BK.shape != (sets, experts.num_experts):
        raise ValueError(
            f"relevance must have the shape [B, K] = [{sets}, {experts.num_experts}] of the "
            f"experts, got {list(relevance_BK.shape)}"
        )
    if rows_N is None:
        if rows % sets:
            raise ValueError(
                f"{sets} expert sets cannot serve {rows} rows evenly; inject one set a row, or "
                "say with `rows_N` which set each row uses"
            )
        grouped = hidden_NTD.reshape(sets, -1, width)
        return _mix_grouped(grouped, experts, relevance_BK).view(rows, tokens, width)
    if rows_N.shape != (rows,):
        raise ValueError(
            f"rows must name one expert set for each of {rows} rows, got {rows_N.shape}"
        )
    slot_N, slots = _slots(rows_N)
    grouped = hidden_NTD.new_zeros(sets, slots, tokens, width)
    grouped = grouped.index_put((rows_N, slot_N), hidden_NTD)
    mixed = _mix_grouped(grouped.view(sets, -1, width), experts, relevance_BK)
    return mixed.view(sets, slots, tokens, width)[rows_N, slot_N]


def _slots(rows_N: Tensor) -> tuple[Tensor, int]:
    """Each row's place among the rows of its expert set, and the size of the largest such group."""
    onehot = torch.nn.functional.one_hot(rows_N)
    slot_N = (onehot.cumsum(0) - 1).gather(1, rows_N[:, None]).squeeze(1)
    return slot_N, int(onehot.sum(0).max())


def _mix_grouped(hidden_BMD: Tensor, experts: Experts, relevance_BK: Tensor) -> Tensor:
    sets, count, width, rank = experts.up1.shape
    up1, up2, down1, down2 = (factor.to(hidden_BMD.dtype) for factor in experts.factors)
    flat_up1 = up1.transpose(1, 2).reshape(sets, width, count * rank)
    inner = (hidden_BMD @ flat_up1).view(sets, -1, count, rank).transpose(1, 2)  # B K M R
    inner = torch.relu(inner @ up2) @ down1
    inner = inner * relevance_BK.to(inner.dtype)[:, :, None, None]
    inner = inner.transpose(1, 2).reshape(sets, -1, count * rank)  # sum over K in the last product
    return inner @ down2.reshape(sets, count * rank, width)
