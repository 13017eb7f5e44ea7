"""The expert bank: one small expert a passage, tens of thousands to millions of them, on disk.

On disk (every file but the manifest is written once and never changed)::

    manifest.json            the backbone, the recipe, and the shards that count; renamed into place
    manifest.copy.json       the same again
    shards/<name>.safetensors  ids, checksums, and one row of weights an expert
    shards/<name>.head       the first bytes of that shard again: all of it but the weights
    README.md                the card

A later shard overrides an earlier one, so adding, replacing and removing are all "write a shard,
then publish a manifest that names it". What is kept twice is served although one copy is damaged;
an expert's weights are kept once, with a checksum, and a damaged one is named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmoe.bank.bank import Bank
    from dmoe.bank.errors import BankError, DamagedExpertError
    from dmoe.bank.hub import from_pretrained, push_to_hub, save_pretrained
    from dmoe.bank.layout import ExpertLayout
    from dmoe.bank.manifest import BankSpec
    from dmoe.bank.merging import merge
    from dmoe.bank.upkeep import compact, verify

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
