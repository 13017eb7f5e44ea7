"""Facts with rephrasings for a tiny model, and the training of an editor on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning import Trainer

from backbone.model import Backbone
from genpoe.editors.parts.facts import Fact
from genpoe.editors.trained.examples import EditData, EditExamples
from genpoe.editors.trained.module import EditorModule
from genpoe.editors.trained.networks import EditNetworks
from plumbing.training.setup import fit
from tests.helpers.taught import TOWNS, home_of, taught_facts


def rephrased_facts() -> list[Fact]:
    """Every person in every other town, each asked in two ways."""
    return [
        replace(home_of(fact.id, town), id=f"{fact.id} {town}", rephrasings=(_again(fact.id),))
        for fact in taught_facts()
        for town in TOWNS
        if town != fact.target
    ]


def _again(name: str) -> str:
    return f"Answer.\nWhere is {name} at home?"


def train_networks(
    backbone: Backbone, networks: EditNetworks, epochs: int, cache_dir: Any = None, **options: Any
) -> tuple[EditorModule, dict[str, float]]:
    """Train networks for some epochs on `rephrased_facts`, without files but the cache."""
    module = EditorModule(backbone, networks, statistics=16, cache_dir=cache_dir)
    data = EditData(EditExamples(backbone, rephrased_facts()), networks.settings.edits, held_out=8)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=networks.settings.clip,
        use_distributed_sampler=False,
        **options,
    )
    return module, fit(trainer, module, data)
