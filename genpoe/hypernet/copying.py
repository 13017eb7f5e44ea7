"""The loss that asks the attention to look at the word that is to be written.

Shapes: N questions, B expert sets, K experts a set, S passage tokens, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbone.likelihood import IGNORE
from genpoe.experts import Looked


def copy_loss(
    looked: Looked,
    ids_BKS: Tensor,
    mask_BKS: Tensor,
    rows_N: Tensor | None,
    targets_NT: Tensor,
    wrong_N: Tensor | None = None,
) -> Tensor:
    """How little the attention is on the word that is to be written, in nats: ``[N]``.

    It is the mean of ``-log(weight)`` over a question's scored positions. The weight is that of all
    places where the word stands or, if it stands nowhere, that of the null unit. With passages of
    others alone, nothing is to be written, even if the word stands there.

    Args:
        looked: Where the experts looked.
        ids_BKS: The words of the experts.
        mask_BKS: True at tokens, false at padding.
        rows_N: The index of each question's set; None: each has its own.
        targets_NT: The token that each position predicts, -100 where none is scored.
        wrong_N: True for questions that have only passages of others; None: there are none.
    """
    ids_NKS, mask_NKS = ids_BKS, mask_BKS
    if rows_N is not None:
        ids_NKS, mask_NKS = ids_BKS[rows_N], mask_BKS[rows_N]
    right = (ids_NKS[:, None] == targets_NT[..., None, None]) & mask_NKS[:, None]
    if wrong_N is not None:
        right = right & ~wrong_N[:, None, None, None]
    found_NT = (looked.units_NTKS * right).sum((-2, -1))
    wanted_NT = torch.where(right.any(-1).any(-1), found_NT, looked.null_NT)
    scored_NT = targets_NT != IGNORE
    loss_NT = -wanted_NT.clamp(min=1e-6).log() * scored_NT
    return loss_NT.sum(1) / scored_NT.sum(1)
