"""A hypernetwork that reads, beside a tiny backbone, with weights as if it had been trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.experts import Looks
from genpoe.hypernet.hypernet import PassageTokens
from genpoe.hypernet.reader import ReaderHypernet, ReaderSettings
from genpoe.model import GenPoE
from retrieval.passage import Passage

PASSAGES = (
    Passage("1", "Tova Blick", "Tova Blick was born in Lisbon. She later worked by the sea."),
    Passage("2", "", "The old town by the sea."),
    Passage("3", "Olen Marsk", "Olen Marsk wrote a quick brown fox, and was born in the old town!"),
)


@dataclass
class _Sample:
    genpoe: GenPoE

    def passages(self) -> Iterator[PassageTokens]:
        yield self.genpoe.tokens(PASSAGES)

    def ffn(self) -> tuple[Tensor, Tensor]:
        width = self.genpoe.backbone.d_model
        return torch.randn(width) + torch.randn(40, width), torch.randn(40, width)

    def seen(self, looks: Looks) -> list[Tensor]:
        width = self.genpoe.backbone.d_model
        return [torch.randn(40, width) for _ in range(1 + len(looks.layers))]


def make_reader(backbone: Backbone, seed: int = 0, **settings: Any) -> GenPoE:
    """GenPoE with a reader whose parameters are all random."""
    small = {"layer": backbone.num_layers - 1, "read_layer": 1, "query_layers": [1]}
    small |= {"hidden_width": 12, "key_width": 8, "common_rank": 3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hypernet: ReaderHypernet = ReaderSettings(**{**small, **settings}).build(backbone)
        genpoe = GenPoE(backbone, hypernet.eval())
        hypernet.start(_Sample(genpoe))
        with torch.no_grad():
            for parameter in hypernet.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return genpoe
