"""Rows of unequal length as rectangular batches.

`by_length` decides which rows share a batch, and `pad` makes one tensor of them. Whoever computes
on rows of tokens uses these two, so that all batches are composed and padded in the same way.

Shapes: N rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


def pad(
    rows: Sequence[Sequence[int] | np.ndarray],
    value: int,
    *,
    left: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Put rows of whole numbers under one another and fill the shorter ones up.

    Args:
        rows: N rows of any lengths, for example of token ids.
        value: The number that stands at padding.
        left: If True, the padding comes before a row's own numbers instead of after them.
        device: Where the tensors are wanted.

    Returns:
        The padded rows and their mask (1 at a row's own numbers, 0 at padding). Both are int64
        ``[N, T]``, where T is the length of the longest row.

    Raises:
        ValueError: If there is no row.
    """
    import torch  # here, so that commands can arrange batches without loading torch
    from torch.nn.utils.rnn import pad_sequence

    if not rows:
        raise ValueError("expected at least one row to pad, got none; leave out the empty batch")
    values_NT = pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=value,
        padding_side="left" if left else "right",
    )
    width = values_NT.shape[1]
    lengths_N1 = torch.tensor([len(row) for row in rows])[:, None]
    places_T = torch.arange(width)
    mask_NT = (places_T >= width - lengths_N1) if left else (places_T < lengths_N1)
    return values_NT.to(device), mask_NT.long().to(device)


def by_length(
    lengths: Sequence[int],
    *,
    max_tokens: int | None = None,
    max_rows: int | None = None,
    longest_first: bool = False,
) -> list[list[int]]:
    """Arrange rows in batches of about equal length, so that little padding is needed.

    The order depends on the lengths alone, and rows of equal length keep their order. The same
    lengths therefore always give the same batches, and with them the same rounding.

    Args:
        lengths: The length of each row.
        max_tokens: The most positions of a batch, padding among them. A row that is longer
            than this gets a batch of its own.
        max_rows: The most rows of a batch.
        longest_first: If True, lengths fall instead of rising. What does not fit into memory then
            fails at once.

    Returns:
        The indices of each batch's rows. Every index occurs once, that of an empty row too.

    Raises:
        ValueError: If a limit is not positive.
    """
    for name, limit in (("max_tokens", max_tokens), ("max_rows", max_rows)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be positive, got {limit}; give None for no limit")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=longest_first):
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        width = lengths[batch[0] if batch and longest_first else index]
        full = (max_rows is not None and rows > max_rows) or (
            max_tokens is not None and rows * width > max_tokens
        )
        if not batch or full:
            batches.append([])
        batches[-1].append(index)
    return batches
