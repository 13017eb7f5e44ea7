"""Makes the tensors of one batch from token ids.

Shapes: N questions, P passages, S passage tokens, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from backbone.likelihood import IGNORE
from plumbing.batches import pad


def collate(
    questions: Sequence[tuple[np.ndarray, np.ndarray]],
    passages: Sequence[np.ndarray],
    rows: Sequence[int],
    loss_weight: float,
    pad_token_id: int,
) -> dict[str, Any]:
    """Make the batch of some questions and the passages that they share.

    Args:
        questions: The token ids of each question's prompt and of its answer.
        passages: The token ids of each passage.
        rows: The index in ``passages`` of each question's passage.
        loss_weight: The weight of each question's loss; see
            `genpoe.training.sampler.BatchSpec.loss_weight`.
        pad_token_id: The token that stands at padding. The masks alone say what is padding.

    Returns:
        A dictionary of ``input_ids`` and ``attention_mask`` (``[N, T]``, padded on the right),
        ``labels`` (``[N, T]``, -100 outside the answers), ``passage_input_ids`` and
        ``passage_attention_mask`` (``[P, S]``), ``rows`` (``[N]``) and ``loss_weight``.

    Raises:
        ValueError: If there is no question, or if ``rows`` does not name one passage for each.
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
    labels, _ = pad(
        [np.concatenate([np.full(len(prompt), IGNORE), answer]) for prompt, answer in questions],
        IGNORE,
    )
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
