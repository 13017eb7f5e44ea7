"""Instances as one padded batch, and the loss of a training on them.

Shapes: N instances, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmoe.instances import Encoded
from qa.backbone import Backbone
from qa.likelihood import IGNORE, answer_nll


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
