"""The expert bank: a small expert for each passage, tens of thousands to millions of them, on disk.

A bank is a folder with these files::

    manifest.json              names the backbone, the recipe and the shards that count
    manifest.copy.json         a copy of the manifest
    shards/<name>.safetensors  ids, checksums, and a row of weights for each expert
    shards/<name>.head         a copy of the beginning of that shard, up to the weights
    README.md                  the card, for people who find the folder

A shard is written once and never changed. A later shard overrides an earlier one, so experts are
added, replaced and removed in the same way: a shard is written, and then a manifest that names it
is renamed into place. The bank survives a crash because a shard counts only when the manifest names
it. What is kept twice is still served when one copy is damaged. The weights of an expert are kept
once, with a checksum, and reading a damaged expert raises an error that names it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa.bank.bank import Bank
    from qa.bank.errors import BankError, DamagedExpertError
    from qa.bank.hub import from_pretrained, push_to_hub, save_pretrained
    from dmoe.bank.layout import ExpertLayout
    from qa.bank.manifest import BankSpec
    from qa.bank.merging import merge
    from qa.bank.upkeep import compact, verify

__all__ = [
    "Bank",
    "BankError",
    "BankSpec",
    "DamagedExpertError",
    "ExpertLayout",
    "compact",
    "from_pretrained",
    "merge",
    "push_to_hub",
    "save_pretrained",
    "verify",
]

# The module that each of them is in.
_HOMES = {
    "Bank": "bank",
    "BankError": "errors",
    "DamagedExpertError": "errors",
    "from_pretrained": "hub",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
    "ExpertLayout": "layout",
    "BankSpec": "manifest",
    "merge": "merging",
    "compact": "upkeep",
    "verify": "upkeep",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands answer ``--help`` before torch is imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
