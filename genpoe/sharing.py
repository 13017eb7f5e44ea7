"""A hypernetwork as a folder that can be shared, or on the Hugging Face hub.

The folder holds ``model.safetensors`` (the hypernetwork's weights alone, with a checksum),
``config.json`` (its settings, and the backbone that it belongs to) and a card, ``README.md``. It
holds no optimiser, no pickle and nothing of the backbone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genpoe.hypernet.hypernet import HypernetSettings
from genpoe.hypernet.saved import read_settings
from plumbing.hub import hub_folder
from plumbing.storage.files import write_json
from plumbing.storage.folders import new_folder
from plumbing.storage.manifest import FolderError
from plumbing.storage.tensors import DamagedTensorsError, read_tensors, write_tensors

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FORMAT = 1
_KEYS = ("format", "hypernet", "backbone", "backbone_sha256", "max_passage_tokens", "prompt")

_TEXT = """---
library_name: genpoe-dmoe
license: other
base_model: {backbone}
tags:
- genpoe
- hypernetwork
- question-answering
---

# Hypernetwork for {backbone}

It reads a passage and makes an expert of it, which stands beside one FFN of {backbone} (GenPoE).
It has {parameters:,} parameters. The licence is that of the base model and of the training data;
name it before you share this folder.

```json
{settings}
```

## Checks

The backbone's fingerprint is `{backbone_sha256}`;
another backbone is refused. The weights hold a checksum, which is compared when they are read.
Nothing says that the experts answer well: evaluate them with `passages=gold` beside
`passages=shuffled`.

## Use

```python
from genpoe import GenPoE

genpoe = GenPoE.from_pretrained("FOLDER or hub id")
with genpoe.injected([passage]):
    print(genpoe.ask("…"))
```

Nothing in this folder is a pickle.
"""


@dataclass(frozen=True)
class SharedHypernet:
    """What a shared folder says of a hypernetwork.

    Attributes:
        settings: Its settings.
        weights: Its weights by name.
        backbone: The name of the backbone that it belongs to.
        backbone_sha256: That backbone's fingerprint.
        max_passage_tokens: The tokens of a passage that it reads.
        prompt: The prompt under which it was trained.
    """

    settings: HypernetSettings
    weights: Mapping[str, Tensor]
    backbone: str
    backbone_sha256: str
    max_passage_tokens: int
    prompt: str

    def write(self, folder: str | Path) -> None:
        """Write the folder, which must not exist yet; a reader sees it whole or not at all.

        Raises:
            FolderError: If there is something of this name already.
        """
        if Path(folder).exists():
            raise FolderError(f"{folder} exists already; give the path of a new folder")
        saved = self.settings.saved()
        config = {
            "format": _FORMAT,
            "hypernet": saved,
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            "max_passage_tokens": self.max_passage_tokens,
            "prompt": self.prompt,
        }
        card = _TEXT.format(
            # As JSON, so that no name can end the header or the block around it.
            backbone=json.dumps(self.backbone),
            parameters=sum(tensor.numel() for tensor in self.weights.values()),
            settings=json.dumps(saved, indent=2),
            backbone_sha256=self.backbone_sha256,
        )
        with new_folder(Path(folder)) as part:
            write_tensors(part / WEIGHTS, {n: t.detach().cpu() for n, t in self.weights.items()})
            write_json(part / CONFIG, config)
            (part / CARD).write_text(card, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SharedHypernet:
        """Read such a folder.

        Raises:
            FolderError: If it is missing, damaged or of another kind.
        """
        try:
            config: Any = json.loads((folder / CONFIG).read_text("utf-8"))
            if not isinstance(config, dict) or (missing := [k for k in _KEYS if k not in config]):
                missing = missing if isinstance(config, dict) else list(_KEYS)
                raise ValueError(f"{CONFIG} lacks {', '.join(missing)}")
            if config["format"] != _FORMAT:
                raise ValueError(f"its format is {config['format']}, expected {_FORMAT}")
            return cls(
                read_settings(config["hypernet"]),
                read_tensors(folder / WEIGHTS),
                *(str(config["backbone"]), str(config["backbone_sha256"])),
                *(int(config["max_passage_tokens"]), str(config["prompt"])),
            )
        except (OSError, ValueError, KeyError, TypeError, DamagedTensorsError) as error:
            raise FolderError(
                f"{folder}: expected a hypernetwork that GenPoE.save_pretrained wrote ({error}); "
                "give another folder, or download it again"
            ) from error


def fetch(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a hypernetwork that lies in a folder or on the hub.

    Raises:
        FolderError: If there is no such folder, and nothing on the hub.
    """
    found = hub_folder(name, [WEIGHTS, CONFIG, CARD], revision, token)
    if isinstance(found, str):
        raise FolderError(
            f"expected a folder or a hypernetwork on the hub that this machine can reach, got "
            f"{str(name)!r}: {found}; check the name, or download it first"
        )
    return found


def upload(
    shared: SharedHypernet, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a hypernetwork in one commit; returns the commit's address.

    Args:
        shared: The hypernetwork.
        repo_id: ``owner/name`` on the Hugging Face hub. It is made if it is missing.
        private: Whether a new repository is private. None leaves this to the owner's account.
        token: The token for the hub. None takes the one that is logged in.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shared.write(Path(folder, "share"))
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder, "share"),
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            commit_message="Upload hypernetwork",
        )
    return str(commit.commit_url)
