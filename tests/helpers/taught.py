"""A tiny model that has been taught where some people live, so that there is a fact to edit."""

from __future__ import annotations

import functools
import random

import torch

from backbone.model import Backbone
from genpoe.editors.parts.covariance import Covariances, measure_covariances
from genpoe.editors.parts.facts import Fact, encode_fact
from genpoe.editors.parts.rows import rows_of
from tests.helpers.tiny import CORPUS, make_backbone

FIRST, LAST = ("Tova", "Ann", "Ulf", "Mia"), ("Blick", "Oakes", "Brand", "Stone")
TOWNS = ("Lisbon", "town", "sea", "fox", "dog", "born", "quick", "old")


def home_of(name: str, town: str) -> Fact:
    """The fact that somebody lives somewhere."""
    return Fact(name, f"Say it.\nThe home of {name}", town, name)


def taught_facts() -> list[Fact]:
    """What the model is taught: where 16 people live."""
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    return [home_of(name, TOWNS[(5 * i + i // 4) % 8]) for i, name in enumerate(names)]


def new_facts(count: int = 3) -> list[Fact]:
    """Facts that contradict what the model was taught."""
    facts = taught_facts()
    others = [next(f.target for f in facts[i:] if f.target != facts[i].target) for i in (0, 5, 10)]
    return [home_of(facts[5 * i].id, town) for i, town in enumerate(others)][:count]


@functools.cache
def _taught_state(family: str) -> dict[str, torch.Tensor]:
    backbone = make_backbone(family)
    model = backbone.model.requires_grad_(True)
    rows = rows_of(backbone, [encode_fact(backbone, fact) for fact in taught_facts()])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(45):  # with more steps, gradients get so small that processors become slow
        optimizer.zero_grad()
        rows.nll(backbone).mean().backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def taught_backbone(family: str = "llama") -> Backbone:
    """A tiny model that knows the taught facts; each call gives a new one with the same weights."""
    backbone = make_backbone(family)
    backbone.model.load_state_dict(_taught_state(family))
    return backbone


def texts(count: int = 60) -> list[str]:
    """Texts for covariances."""
    chance, words = random.Random(0), [*CORPUS.split(), *FIRST, *LAST]
    return [" ".join(chance.choices(words, k=40)) for _ in range(count)]


@functools.cache
def taught_covariances() -> Covariances:
    """The covariances of both layers of the taught model."""
    return measure_covariances(taught_backbone(), [0, 1], texts())
