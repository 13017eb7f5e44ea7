"""Instances as token ids, as one padded batch, and the loss of a training on them.

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


@dataclass(frozen=True, slots=True)
class Encoded:
    """An instance as the model reads it.

    Attributes:
        ids: Its tokens; at least two.
        first_label: The token at this position and all behind it are to be predicted; at least 1.
    """

    ids: tuple[int, ...]
    first_label: int


def encode(tokenizer: Any, instance: Instance, loss: str, max_tokens: int) -> Encoded | None:
    """Token ids of an instance, and where its labels begin.

    A prompt that is too long loses its beginning, an answer that alone is too long its end.

    Args:
        tokenizer: The backbone's.
        instance: The instance.
        loss: "answer" or "all"; see `dmoe.experts.recipe.Recipe`.
        max_tokens: At most so many.

    Returns:
        None where nothing can be predicted: a single token without a prompt.
    """
    prompt = encode_prompt(tokenizer, instance.prompt) if instance.prompt else []
    answer = encode_answer(tokenizer, instance.answer)[: max_tokens - bool(prompt)]
    prompt = prompt[max(0, len(prompt) + len(answer) - max_tokens) :]
    ids = (*prompt, *answer)
    if len(ids) < 2:
        return None
    return Encoded(ids, 1 if loss == "all" else max(1, len(prompt)))


def encode_all(
    tokenizer: Any, instances: Iterable[Instance], loss: str, max_tokens: int
) -> list[Encoded]:
    """All instances that have something to predict; see `encode`."""
    each = (encode(tokenizer, instance, loss, max_tokens) for instance in instances)
    return [encoded for encoded in each if encoded is not None]


def pad_instances(
    instances: Sequence[Encoded], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels``, each ``[N, T]``, padded on the right."""
    width = max(len(instance.ids) for instance in instances)
    ids = torch.zeros(len(instances), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, instance in enumerate(instances):
        size, first = len(instance.ids), instance.first_label
        ids[row, :size] = torch.tensor(instance.ids)
        mask[row, :size] = 1
        labels[row, first:size] = ids[row, first:size]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def label_loss(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood over all labels of a batch together, nats a label.

    Args:
        backbone: With whatever is injected into it.
        batch: See `pad_instances`.
    """
    counts_N = (batch["labels"] != IGNORE).sum(1)
    nll_N = answer_nll(backbone, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return nll_N @ (counts_N / counts_N.sum())
