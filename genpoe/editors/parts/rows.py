"""Rows of token ids with labels, and the likelihood of the labels, whatever side is padded.

Positions come from the attention mask. The token at padding may be the end of the sequence, which
may stand in a prompt as well.

Shapes: N rows, T tokens, D d_model, A label positions of all rows together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backbone.decoding import pad_token_id
from backbone.likelihood import IGNORE
from backbone.model import Backbone
from genpoe.editors.parts.facts import EncodedFact
from plumbing.batches import pad


@dataclass(frozen=True)
class Rows:
    """A padded batch.

    Attributes:
        ids: Token ids ``[N, T]``.
        mask: 1 at tokens, 0 at padding, ``[N, T]``.
        labels: The token itself where it is scored, -100 elsewhere, ``[N, T]``.
        left: Whether the padding comes before the tokens.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    left: bool = False

    @property
    def starts(self) -> Tensor:
        """The column of each row's first token ``[N]``."""
        return self.mask.argmax(1)

    @property
    def predicting(self) -> tuple[Tensor, Tensor]:
        """The rows and columns ``[A]`` of the positions that predict a label."""
        rows, columns = (self.labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        return rows, columns

    def hidden(self, backbone: Backbone) -> Tensor:
        """Final hidden states ``[N, T, D]`` of the backbone as it is."""
        if not self.left:
            return backbone.hidden_states(self.ids, self.mask)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        out = backbone.decoder(
            input_ids=self.ids, attention_mask=self.mask, position_ids=positions, use_cache=False
        )
        return out.last_hidden_state

    def nll(self, backbone: Backbone, hidden: Tensor | None = None) -> Tensor:
        """The mean negative log-likelihood of each row's labels ``[N]``, in nats a token.

        It is computed in float32, or in float64 if the model is.

        Args:
            backbone: The model.
            hidden: What `hidden` returned, or states in its place. None: they are computed.
        """
        hidden = self.hidden(backbone) if hidden is None else hidden
        rows, columns = self.predicting
        logits_AV = at_least_float32(backbone.logits(hidden[rows, columns]))
        nll_A = functional.cross_entropy(
            logits_AV, self.labels[rows, columns + 1], reduction="none"
        )
        total = nll_A.new_zeros(len(self.ids)).index_add(0, rows, nll_A)
        return total / (self.labels != IGNORE).sum(1).clamp(min=1)


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are that already."""
    return values if values.dtype == torch.float64 else values.float()


def make_rows(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    left: bool = False,
) -> Rows:
    """Pad prompts with the targets behind them; the targets are the labels.

    Args:
        backbone: The model whose token stands at padding.
        prompts: The ids of N prompts.
        targets: The ids of N targets; they may be empty.
        left: Whether to pad before the tokens.
    """
    joint = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    labels = [
        [*[IGNORE] * len(prompt), *target] for prompt, target in zip(prompts, targets, strict=True)
    ]
    ids, mask = pad(joint, pad_token_id(backbone.tokenizer), left=left, device=backbone.device)
    padded, _ = pad(labels, IGNORE, left=left, device=backbone.device)
    return Rows(ids, mask, padded, left)


def rows_of(backbone: Backbone, facts: Sequence[EncodedFact], left: bool = False) -> Rows:
    """Pad the prompts of facts with their targets behind them."""
    return make_rows(
        backbone, [fact.prompt_ids for fact in facts], [fact.target_ids for fact in facts], left
    )
