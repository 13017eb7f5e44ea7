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
from plumbing.batches import pad


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
    ids, mask = pad([each.ids for each in instances], 0, device=device)
    labels, _ = pad(
        [(IGNORE,) * each.first_label + each.ids[each.first_label :] for each in instances],
        IGNORE,
        device=device,
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def label_loss(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood over all labels of a batch together, nats a label.

    Args:
        backbone: With whatever is injected into it.
        batch: See `pad_instances`.
    """
    counts_N = (batch["labels"] != IGNORE).sum(1)
    nll_N = answer_nll(backbone, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return nll_N @ (counts_N / counts_N.sum())
