"""Writes an ordinary Hugging Face model that always has some experts of a bank.

An expert adds ``w · alpha / rank · B A x`` to a projection, so a fixed set of experts with fixed
weights is a change of the final FFN's weights (DMoE sec. 3.2.1). The model that is written needs
nothing of this project. It routes nothing: the experts act at every token of every question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from backbone.final_ffn import FinalFFN
from backbone.lora.settings import AdapterError, check_absent
from backbone.model import Backbone
from dmoe.bank.bank import Bank
from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.training.warmup import merge_expert
from plumbing.devices import DTYPES
from plumbing.settings import check_choice
from plumbing.storage.folders import new_folder

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: other
base_model: {backbone}
base_model_relation: merge
tags:
- dmoe
- lora
- merge
---

# A model with {count} experts merged into it

{backbone} with the experts of {count} passages in its final FFN (DMoE). It is loaded like any other
model: `AutoModelForCausalLM.from_pretrained(FOLDER)`. The experts act at every token.

The licence is that of the base model and of the passages; name it before you share this folder.

| | |
| --- | --- |
| base model's fingerprint | `{fingerprint}` |
| rank, alpha | {rank}, {alpha:g} |
| dtype | {dtype} |

Passages by id, with the weights of their experts:

```json
{weights}
```
"""


def save_merged(
    folder: str | Path,
    bank: Bank,
    ids: Sequence[str],
    backbone: Backbone,
    weights: Sequence[float] | None = None,
    dtype: str = "float32",
) -> None:
    """Merge experts into a backbone, and write it as a folder that transformers loads.

    Args:
        folder: The new folder; it must not exist yet.
        bank: The bank.
        ids: The passages whose experts are merged.
        backbone: The bank's backbone in float32. Its weights change, so it is of no use afterwards.
        weights: The weight of each expert; None: they are equal, and sum to 1.
        dtype: The dtype that is written. In 16 bits a part of what an expert says is rounded away.

    Raises:
        AdapterError: If the folder exists, if there is no expert or one twice, or if the weights
            are not one for each.
        BankError: If the bank lacks an expert, or belongs to another backbone.
        ValueError: If the backbone is not in float32, or the dtype is unknown.
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    check_absent(folder)
    shares = [1 / len(ids)] * len(ids) if weights is None and ids else list(weights or ())
    if not ids or len(set(ids)) != len(ids) or len(shares) != len(ids):
        raise AdapterError(
            "expected different passage ids and a weight for each, got "
            f"{len(ids)} ids ({len(set(ids))} different) and {len(shares)} weights"
        )
    if backbone.dtype != torch.float32:
        raise ValueError(
            f"experts are merged in float32, got a backbone in {backbone.dtype}; load it with "
            "dtype=float32, and say by dtype= what is written"
        )
    bank.check_backbone(backbone)
    expert, spec = as_one(bank, ids, shares)
    fingerprint = backbone.fingerprint
    merge_expert(FinalFFN(backbone), expert, spec)
    card = _CARD.format(
        # As JSON, so that no name or id can end the header or the block around it.
        backbone=json.dumps(backbone.name),
        count=len(ids),
        fingerprint=fingerprint,
        rank=bank.layout.rank,
        alpha=bank.spec.alpha,
        dtype=dtype,
        weights=json.dumps(dict(zip(ids, shares, strict=True)), indent=2),
    )
    with new_folder(Path(folder)) as part:
        backbone.model.to(DTYPES[dtype]).save_pretrained(part)
        backbone.tokenizer.save_pretrained(part)
        (part / "README.md").write_text(card, encoding="utf-8")


def as_one(bank: Bank, ids: Sequence[str], weights: Sequence[float]) -> tuple[Expert, ExpertSpec]:
    """Some experts with weights as one expert whose rank is the sum of theirs.

    Args:
        bank: The bank.
        ids: K passages.
        weights: The weight of each one's expert.

    Returns:
        The expert, ``A`` ``[K R, in]`` and ``B`` ``[out, K R]``, and its settings.

    Raises:
        BankError: If the bank lacks an expert.
    """
    count, rank = len(ids), bank.layout.rank
    weight_K11 = torch.tensor(list(weights))[:, None, None]
    one: Expert = {}
    for name, factors in bank.get(ids).items():
        if name.endswith("lora_A"):
            one[name] = factors.float().flatten(0, 1)
        else:
            one[name] = (factors.float() * weight_K11).movedim(0, 1).flatten(1)
    targets = sorted({name.partition(".")[0] for name in bank.layout.shapes})
    return one, ExpertSpec(count * rank, count * bank.spec.alpha, targets)
