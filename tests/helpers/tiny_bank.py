"""Banks of tiny experts, for the tests of the bank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dmoe.bank import Bank, BankSpec, ExpertLayout
from retrieval.passage import Passage

# d_model 3, FFN width 5, rank 2
SHAPES = {
    "gate.lora_A": (2, 3),
    "gate.lora_B": (5, 2),
    "down.lora_A": (2, 5),
    "down.lora_B": (3, 2),
}


def make_spec(dtype: str = "float32", **changes: object) -> BankSpec:
    settings: dict = {
        "backbone": "tiny",
        "backbone_sha256": "0" * 64,
        "layout": ExpertLayout(SHAPES, dtype),
        "alpha": 16.0,
        "recipe": {"lr": 1e-5, "epochs": 1},
    }
    return BankSpec(**{**settings, **changes})


def make_bank(path: Path, dtype: str = "float32", **changes: object) -> Bank:
    return Bank.create(path, make_spec(dtype, **changes))


def passage(id: str, text: str = "") -> Passage:
    return Passage(id, f"title of {id}", text or f"text of {id}")


def experts(*seeds: int) -> dict[str, Tensor]:
    """An expert for each seed, of numbers that every dtype of a bank can hold."""
    made = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        made.append(
            {
                name: torch.randint(-8, 9, shape, generator=generator) / 8
                for name, shape in SHAPES.items()
            }
        )
    return {
        name: torch.stack([one[name] for one in made]) if made else torch.empty(0, *shape)
        for name, shape in SHAPES.items()
    }


def add(bank: Bank, ids: Sequence[str], seed: int = 0, replace: bool = False) -> None:
    """Add experts of the seeds ``seed``, ``seed + 1``, …"""
    seeds = range(seed, seed + len(ids))
    bank.add([passage(id) for id in ids], experts(*seeds), replace)


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(
        torch.equal(got[name].float(), wanted[name].float()) for name in wanted
    )


def holds(bank: Bank, model: dict[str, int]) -> bool:
    """Whether a bank holds the experts of these ids and seeds, and no others."""
    ids = list(model)
    if len(bank) != len(ids) or sorted(bank) != sorted(ids):
        return False
    return all(id in bank for id in ids) and same(bank.get(ids), experts(*model.values()))
