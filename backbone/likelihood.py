"""The likelihood of an answer; logits are computed only where there are labels.

Shapes: N rows, T tokens, D d_model, A label positions of all rows together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from backbone.model import Backbone

IGNORE = -100


def answer_nll(
    backbone: Backbone,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    hidden_states: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean negative log-likelihood of each row's labelled tokens, in nats per token.

    The head reads only the positions that predict a label. With answers of three tokens in prompts
    of thirty, the other positions would be nine tenths of its work.

    Args:
        backbone: The frozen model, with or without injected experts.
        input_ids: ``[N, T]``.
        attention_mask: ``[N, T]``, 0 at padding.
        labels: ``[N, T]``: the token itself at each position that is scored, -100 elsewhere.
        hidden_states: A function that computes the final hidden states of the first T - 1 tokens
            from their ids and mask; default: the backbone.

    Returns:
        ``[N]``, float32.

    Raises:
        ValueError: If a row has no label, or if it has one at its first position.
    """
    target = labels[:, 1:] != IGNORE  # position t predicts the token at t + 1
    counts = target.sum(1)
    if not bool(counts.all()) or bool((labels[:, 0] != IGNORE).any()):
        raise ValueError("every row needs at least one label, and none at its first position")
    rows, positions = target.nonzero(as_tuple=True)
    # The last token is predicted but never read.
    compute = hidden_states or backbone.hidden_states
    hidden = compute(input_ids[:, :-1], attention_mask[:, :-1])
    logits_AV = backbone.logits(hidden[rows, positions]).float()
    nll_A = functional.cross_entropy(logits_AV, labels[rows, positions + 1], reduction="none")
    return torch.zeros_like(counts, dtype=nll_A.dtype).index_add(0, rows, nll_A) / counts
