"""The words of the card of a bank of experts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmoe.bank.spec import BankSpec

_TEXT = """---
library_name: genpoe-dmoe
license: other
base_model: {base_model}
base_model_relation: adapter
tags:
- dmoe
- lora
- question-answering
---

# Expert bank

{experts:,} experts, each the LoRA adapter of one passage on feed-forward projections of
{backbone}; an expert adds `alpha / rank * B A x` (DMoE). The numbers are those of the moment when
this card was written.

| | |
| --- | --- |
| experts | {experts:,} |
| rank, alpha | {rank}, {alpha:g} |
| parameters of one | {numel:,} ({dtype}, {row_bytes:,} bytes) |
| shards | {shards:,} |
| backbone's fingerprint | `{backbone_sha256}` |

Tensors of one expert:

{tensors}

How they were trained:

```json
{recipe}
```

## Checks

Each expert has a checksum, which is compared whenever it is read, and was compared when this
folder was copied or uploaded. `verify` compares all of them. Nothing says that an expert answers
well: evaluate it with `passages=gold` beside `passages=shuffled`.

The licence is that of the base model and of the passages; name it before you share this folder.

## Use

```python
from dmoe.bank import from_pretrained

bank = from_pretrained("FOLDER or hub id", backbone=backbone)  # refuses another backbone
experts = bank.get(["a passage's id", "another's"])            # checks their checksums
```

`python scripts/bank.py verify|list|compact|merge|remove|export FOLDER` looks after the bank.
Nothing in this folder is a pickle: weights, ids and checksums are safetensors, the rest is JSON.
"""


def expert_card(spec: BankSpec, experts: int, shards: int) -> str:
    """Make the card of a bank of experts, in Markdown.

    Args:
        spec: What the experts have in common.
        experts: How many there are.
        shards: How many shards they are in.
    """
    layout = spec.layout
    return _TEXT.format(
        # They are written as JSON, so that no name or recipe can end the header or block around it.
        base_model=json.dumps(spec.backbone),
        backbone=json.dumps(spec.backbone),
        recipe=json.dumps(spec.recipe, indent=2),
        experts=experts,
        shards=shards,
        rank=layout.rank,
        alpha=spec.alpha,
        numel=layout.numel,
        dtype=layout.dtype,
        row_bytes=layout.row_bytes,
        backbone_sha256=spec.backbone_sha256,
        tensors="\n".join(f"- `{name}` {list(shape)}" for name, shape in layout.shapes.items()),
    )
