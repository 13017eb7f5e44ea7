"""The likelihood of an answer; logits are computed only where there are labels.

Shapes: N rows, T tokens, D d_model, A label positions of all rows together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backbone.model import Backbone

IGNORE = -100


@dataclass(frozen=True)
class AnswerLogits:
    """What a model says at the positions that predict labels, of all rows one after another.

    Attributes:
        logits_AV: The logits, float32.
        labels_A: The tokens that they predict.
        rows_A: The row of each position.
        counts_N: How many positions each row has, at least one.
    """

    logits_AV: Tensor
    labels_A: Tensor
    rows_A: Tensor
    counts_N: Tensor

    def mean(self, values_A: Tensor) -> Tensor:
        """The mean of some values over the positions of each row: ``[N]``."""
        total_N = torch.zeros_like(self.counts_N, dtype=values_A.dtype)
        return total_N.index_add(0, self.rows_A, values_A) / self.counts_N

    def nll(self) -> Tensor:
        """The mean negative log-likelihood of each row's labels, in nats per token: ``[N]``."""
        nll_A = functional.cross_entropy(self.logits_AV, self.labels_A, reduction="none")
        return self.mean(nll_A)


def answer_logits(
    backbone: Backbone,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    hidden_states: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> AnswerLogits:
    """The logits at the positions that predict a label.

    The head reads only these. With answers of three tokens in prompts of thirty, the other
    positions would be nine tenths of its work.

    Args:
        backbone: The frozen model, with or without injected experts.
        input_ids: ``[N, T]``.
        attention_mask: ``[N, T]``, 0 at padding.
        labels: ``[N, T]``: the token itself at each position that is scored, -100 elsewhere.
        hidden_states: A function that computes the final hidden states of the first T - 1 tokens
            from their ids and mask; default: the backbone.

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
    return AnswerLogits(logits_AV, labels[rows, positions + 1], rows, counts)


def answer_nll(
    backbone: Backbone,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    hidden_states: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean negative log-likelihood of each row's labelled tokens, in nats per token.

    The arguments are those of `answer_logits`.

    Returns:
        ``[N]``, float32.

    Raises:
        ValueError: If a row has no label, or if it has one at its first position.
    """
    return answer_logits(backbone, input_ids, attention_mask, labels, hidden_states).nll()
