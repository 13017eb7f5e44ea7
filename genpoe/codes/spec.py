"""What all codes of a bank have in common, as its manifest says it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from backbone.model import Backbone
from genpoe.codes.layout import CodeLayout
from genpoe.hypernet.hypernet import Hypernet, HypernetSettings
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.hypernet.saved import read_settings
from plumbing.mounts import SettingValueError
from plumbing.storage.tensors import tensors_digest
from qa.bank.spec import Spec, json_values

_CARD = """---
library_name: genpoe-dmoe
license: other
base_model: {backbone}
tags:
- genpoe
- question-answering
---

# Bank of codes

{rows:,} codes of passages for {backbone}. A code is what must be kept of a passage, so that a
trained hypernetwork can make its expert again without reading it: token ids, and a key for each.
**It holds the words of its passage.** The numbers are those of the moment when this card was
written.

| | |
| --- | --- |
| codes | {rows:,} |
| form of the keys | {keys}, width {key_width} |
| bytes of a token | {token_bytes} |
| tokens of a passage that are kept, at most | {max_passage_tokens:,} |
| shards | {shards:,} |
| backbone's fingerprint | `{backbone_sha256}` |
| hypernetwork's SHA-256 | `{hypernet_sha256}` |

Settings of the hypernetwork:

```json
{hypernet}
```

## Use

```python
from genpoe import GenPoE
from genpoe.codes import CodeBank

genpoe = GenPoE.from_checkpoint("the hypernetwork's checkpoint")
genpoe.use_codes(CodeBank.open("FOLDER"))  # refuses another hypernetwork
```

`python scripts/bank.py verify|list|compact|merge|remove|export FOLDER` looks after the bank.
Nothing in this folder is a pickle: codes, ids and checksums are safetensors, the rest is JSON.
"""


def not_reading(hypernet: Hypernet) -> SettingValueError:
    """The error for a hypernetwork whose experts are made of something else than codes."""
    return SettingValueError(
        "ckpt_path",
        "codes are kept for the hypernetwork that reads (hypernet=reader), got a checkpoint of "
        f"{type(hypernet).__name__}",
        "set {} to a checkpoint of a reader, or leave the codes out",
    )


@dataclass(frozen=True)
class CodeSpec(Spec):
    """What all codes of a bank have in common.

    Attributes:
        backbone: The name of the model that the passages were read with.
        backbone_sha256: The hash of that model, `backbone.model.Backbone.fingerprint`.
        backbone_dtype: The dtype in which it read them.
        hypernet: The settings of the hypernetwork that decide a code.
        hypernet_sha256: The hash of its weights.
        max_passage_tokens: Longer passages were cut.
        layout: How a code is laid out.
    """

    backbone: str
    backbone_sha256: str
    backbone_dtype: str
    hypernet: dict[str, Any]
    hypernet_sha256: str
    max_passage_tokens: int
    layout: CodeLayout

    @classmethod
    def of(
        cls, backbone: Backbone, hypernet: Hypernet, max_passage_tokens: int, keys: str = "int8"
    ) -> Self:
        """The spec of the codes that a hypernetwork makes.

        Args:
            backbone: The frozen model.
            hypernet: The hypernetwork.
            max_passage_tokens: Longer passages are cut.
            keys: In which form keys are kept; see `CodeLayout`.

        Raises:
            ValueError: If the hypernetwork is none that reads.
        """
        if not isinstance(hypernet, ReaderHypernet):
            raise not_reading(hypernet)
        settings = hypernet.settings
        weights = {name: tensor.cpu() for name, tensor in hypernet.state_dict().items()}
        return cls(
            backbone.name,
            backbone.fingerprint,
            str(backbone.dtype).removeprefix("torch."),
            _deciding(settings),
            tensors_digest(weights),
            max_passage_tokens,
            CodeLayout(settings.key_width, backbone.vocab_size, keys),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {
            "kind": self.kind,
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            "backbone_dtype": self.backbone_dtype,
            "hypernet": self.hypernet,
            "hypernet_sha256": self.hypernet_sha256,
            "max_passage_tokens": self.max_passage_tokens,
            **self.layout.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Make a spec of what ``to_json`` returned.

        Raises:
            ValueError: If a value cannot be used.
            KeyError: If a value is missing.
        """
        names = ("backbone", "backbone_sha256", "backbone_dtype", "hypernet", "hypernet_sha256")
        layout = CodeLayout(value["key_width"], value["vocab_size"], value["keys"])
        longest = int(value["max_passage_tokens"])
        return cls(**{n: value[n] for n in names}, max_passage_tokens=longest, layout=layout)

    def told(self) -> dict[str, Any]:
        """The values under dotted keys.

        A setting of the hypernetwork that is newer than the bank has its default there.
        """
        settings = _deciding(read_settings(self.hypernet))
        return {**super().told(), **{f"hypernet.{name}": settings[name] for name in settings}}

    def card(self, rows: int, shards: int) -> str:
        """The card of a bank of codes, in Markdown."""
        return _CARD.format(
            **self.layout.to_json(),
            rows=rows,
            shards=shards,
            backbone=json.dumps(self.backbone),
            backbone_sha256=self.backbone_sha256,
            hypernet=json.dumps(self.hypernet, indent=2),
            hypernet_sha256=self.hypernet_sha256,
            max_passage_tokens=self.max_passage_tokens,
            token_bytes=self.layout.token_bytes,
        )


def _deciding(settings: HypernetSettings) -> dict[str, Any]:
    """The settings on which a code depends, as plain JSON values."""
    saved = {k: v for k, v in settings.saved().items() if k not in settings.TRAINING_ONLY}
    return json_values(saved, "settings")
