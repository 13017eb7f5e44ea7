"""Sessions over tiny random models, for the tests of live use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbone.model import Backbone
from dmoe.bank import Bank
from genpoe.hypernet.mean import MeanSettings
from genpoe.model import GenPoE
from live.session import KnowledgeSession
from live.settings import SessionSettings
from live.trained import Course, Teacher
from retrieval.passage import Passage
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.tiny_reader import make_reader

PASSAGES = [
    Passage(name, name, f"{name} was born in {place}. The old town lies by the sea.")
    for name, place in (
        *(("Tova Blick", "Lisbon"), ("Ann Oakes", "Bergen"), ("Ulf Brand", "Turin")),
        *(("Mia Stone", "Leeds"), ("Olen Marsk", "Cork"), ("Ida Frost", "Graz")),
    )
]
QUESTION = "Where was Tova Blick born?"


def reader_checkpoint(backbone: Backbone, folder: Path, **settings: Any) -> Path:
    """A file of a reader with random weights."""
    path = folder / "reader.ckpt"
    make_reader(backbone, **settings).save(path)
    return path


def mean_checkpoint(backbone: Backbone, folder: Path, layer: int) -> Path:
    """A file of the paper's hypernetwork with random weights."""
    settings = MeanSettings(layer=layer, rank=2, hidden_width=8, embedding_scaling="none")
    hypernet = settings.build(backbone)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in hypernet.parameters():
            parameter.normal_(std=0.5)
    path = folder / "mean.ckpt"
    GenPoE(backbone, hypernet.eval()).save(path)
    return path


def reader_session(
    backbone: Backbone, folder: Path, kept: Path | None = None, **settings: Any
) -> KnowledgeSession:
    """A session with the experts of a reader."""
    path = reader_checkpoint(backbone, folder)
    return KnowledgeSession.from_checkpoint(
        path, backbone, kept, settings=SessionSettings(**{"k": 2, **settings})
    )


def expert_bank(backbone: Backbone, folder: Path, passages: list[Passage]) -> Path:
    """A bank with a random expert for each passage."""
    spec = Teacher(backbone, Course()).bank_spec()
    experts = MemoryExperts(backbone).get([f"p{place}" for place in range(len(passages))])
    Bank.create(folder / "bank", spec).add(passages, experts)
    return folder / "bank"
