"""The expert bank: a small expert for each passage, tens of thousands to millions of them, on disk.

How banks lie on a disk, survive crashes and are looked after, `qa.bank` says; it does so for every
kind of bank. Here is what an expert is, and what all experts of a bank have in common.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmoe.bank.bank import Bank, DamagedExpertError, from_pretrained
    from dmoe.bank.layout import ExpertLayout
    from dmoe.bank.spec import BankSpec
    from qa.bank.errors import BankError
    from qa.bank.hub import push_to_hub, save_pretrained
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
    "Bank": "dmoe.bank.bank",
    "BankError": "qa.bank.errors",
    "DamagedExpertError": "dmoe.bank.bank",
    "from_pretrained": "dmoe.bank.bank",
    "push_to_hub": "qa.bank.hub",
    "save_pretrained": "qa.bank.hub",
    "ExpertLayout": "dmoe.bank.layout",
    "BankSpec": "dmoe.bank.spec",
    "merge": "qa.bank.merging",
    "compact": "qa.bank.upkeep",
    "verify": "qa.bank.upkeep",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands answer ``--help`` before torch is imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
