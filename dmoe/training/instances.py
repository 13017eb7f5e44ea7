"""Turns instances into token ids and padded batches, and computes the loss on a batch.

Shapes: N instances, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbone.likelihood import IGNORE, answer_nll
from backbone.model import Backbone
from backbone.tokens import encode_answer, encode_prompt
from dmoe.training.lessons import Instance
from plumbing.batches import pad


@dataclass(frozen=True, slots=True)
class Encoded:
    """An instance as the model reads it.

    Attributes:
        ids: The token ids of the prompt and the answer; at least two.
        first_label: The position of the first token that is a label; all tokens after it are
            labels, too. At least 1, because the first token cannot be predicted.
    """

    ids: tuple[int, ...]
    first_label: int


def encode(tokenizer: Any, instance: Instance, loss: str, max_tokens: int) -> Encoded | None:
    """Encode an instance, and mark where its labels begin.

    If both together are too long, the prompt loses its beginning, behind the tokens with which any
    text begins. If the answer alone is too long, it loses its end.

    Args:
        tokenizer: The backbone's tokenizer.
        instance: The instance.
        loss: "answer" or "all", as in `dmoe.experts.recipe.Recipe`.
        max_tokens: The most tokens that the instance may have.

    Returns:
        The encoded instance, or None if it has fewer than two tokens, so that nothing can be
        predicted.
    """
    prompt = encode_prompt(tokenizer, instance.prompt)
    begin = encode_prompt(tokenizer, "")[: max_tokens - 1]  # such as a BOS, or nothing
    kept = max(len(begin), bool(prompt))
    answer = encode_answer(tokenizer, instance.answer)[: max_tokens - kept]
    prompt = begin + prompt[len(begin) + max(0, len(prompt) + len(answer) - max_tokens) :]
    ids = (*prompt, *answer)
    if len(ids) < 2:
        return None
    return Encoded(ids, 1 if loss == "all" else max(1, len(prompt)))


def encode_all(
    tokenizer: Any, instances: Iterable[Instance], loss: str, max_tokens: int
) -> list[Encoded]:
    """Encode instances as `encode` does, and leave out those with nothing to predict."""
    each = (encode(tokenizer, instance, loss, max_tokens) for instance in instances)
    return [encoded for encoded in each if encoded is not None]


def pad_instances(
    instances: Sequence[Encoded], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Pad instances on the right to one batch.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each ``[N, T]``. Tokens that are not
        labels have −100 in ``labels``.
    """
    ids, mask = pad([each.ids for each in instances], 0, device=device)
    labels, _ = pad(
        [(IGNORE,) * each.first_label + each.ids[each.first_label :] for each in instances],
        IGNORE,
        device=device,
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def label_loss(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Compute the mean negative log-likelihood over all labels of a batch together.

    Args:
        backbone: The model. Adapters that are attached to it take effect.
        batch: A batch of `pad_instances`.

    Returns:
        A scalar, in nats per label.
    """
    counts_N = (batch["labels"] != IGNORE).sum(1)
    nll_N = answer_nll(backbone, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return nll_N @ (counts_N / counts_N.sum())
