"""Make the tensors of one batch from token ids.

Shapes: N questions, P passages, S passage tokens, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbone.likelihood import IGNORE


def collate(
    questions: Sequence[tuple[np.ndarray, np.ndarray]],
    passages: Sequence[np.ndarray],
    rows: Sequence[int],
    loss_weight: float,
    pad_token_id: int,
) -> dict[str, Any]:
    """Make the batch of some questions and the passages that they share.

    Args:
        questions: Token ids of each question's prompt and of its answer.
        passages: Token ids of each passage.
        rows: Index of each question's passage in ``passages``.
        loss_weight: Factor on each question's loss, as in `BatchSpec.loss_weight`.
        pad_token_id: The token at padding. Only the masks mark what is padding.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[N, T]``, padded on the right; ``labels`` ``[N, T]``,
        -100 outside the answers; ``passage_input_ids`` and ``passage_attention_mask`` ``[P, S]``;
        ``rows`` ``[N]``; ``loss_weight``.

    Raises:
        ValueError: If there is no question, or if ``rows`` does not name a passage for each.
    """
    if not questions or len(rows) != len(questions):
        raise ValueError(
            f"expected questions and one row for each, got {len(questions)} and {len(rows)} rows"
        )
    if not 0 <= min(rows) <= max(rows) < len(passages):
        raise ValueError(f"rows must name passages in 0..{len(passages) - 1}, got {list(rows)}")
    input_ids, attention_mask = pad(
        [np.concatenate([prompt, answer]) for prompt, answer in questions], pad_token_id
    )
    labels = torch.full_like(input_ids, IGNORE)
    for row, (prompt, answer) in enumerate(questions):
        end = len(prompt) + len(answer)
        labels[row, len(prompt) : end] = input_ids[row, len(prompt) : end]
    passage_input_ids, passage_attention_mask = pad(passages, pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "passage_input_ids": passage_input_ids,
        "passage_attention_mask": passage_attention_mask,
        "rows": torch.tensor(rows),
        "loss_weight": loss_weight,
    }


def pad(
    sequences: Sequence[Sequence[int] | np.ndarray], pad_token_id: int
) -> tuple[Tensor, Tensor]:
    """Pad sequences on the right: token ids and attention mask, both ``[N, T]``."""
    longest = max(map(len, sequences))
    ids_NT = torch.full((len(sequences), longest), pad_token_id, dtype=torch.long)
    mask_NT = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids_NT[row, : len(sequence)] = torch.from_numpy(np.asarray(sequence, dtype=np.int64))
        mask_NT[row, : len(sequence)] = 1
    return ids_NT, mask_NT
