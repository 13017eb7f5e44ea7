"""A setting of the wrong type is reported before it is used."""

from __future__ import annotations

from typing import Any

import pytest

from backbone.lora.adapter import LoraSettings
from dmoe.augmentation.augmenter import ModelAugmenter
from dmoe.augmentation.endpoint import EndpointWriter
from dmoe.augmentation.writer import BackboneWriter
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.decoding.controls import SomeExperts
from dmoe.decoding.router import RandomRouter
from dmoe.decoding.routing import Routing
from dmoe.decoding.trigger import ConstantTrigger, RandomTrigger, UncertaintyTrigger
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.method import load_dmoe
from dmoe.training.grouped import Limits


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Recipe, {"lr": "abc"}, "lr must be a number, got 'abc'; set recipe.lr"),
        (Recipe, {"epochs": 1.5}, "epochs must be a whole number, got 1.5; set recipe.epochs"),
        (Recipe, {"epochs": True}, "set recipe.epochs"),
        (Recipe, {"betas": 0.9}, "betas must be a list, each entry a number, got 0.9"),
        (Recipe, {"betas": ["a", "b"]}, "set recipe.betas"),
        (Recipe, {"seed": "x"}, "set recipe.seed"),
        (ExpertSpec, {"rank": "x"}, "rank must be a whole number, got 'x'; set expert.rank"),
        (ExpertSpec, {"alpha": "high"}, "set expert.alpha"),
        (ExpertSpec, {"targets": None}, "set expert.targets"),
        (Limits, {"group_size": 2.5}, "set limits.group_size"),
        (LoraSettings, {"rank": 1.5}, "set lora.rank"),
        (
            LayerFFNs,
            {"backbone": object(), "placement": "all"},
            "placement must be a number, got 'all'; set method.placement",
        ),
        (UncertaintyTrigger, {"threshold": "high"}, "set trigger.threshold"),
        (RandomTrigger, {"rate": "often"}, "set trigger.rate"),
        (ConstantTrigger, {"active": "no_thanks"}, "active must be true or false, got 'no_thanks'"),
        (SomeExperts, {"source": object(), "fraction": "half"}, "set method.fraction"),
        (
            load_dmoe,
            {"backbone": object(), "bank_dir": "x", "fraction": True},
            "fraction must be a number, got True; set method.fraction",
        ),
        (RandomRouter, {"bank": ["a"], "seed": "abc"}, "got 'abc'; set router.seed"),
        (ModelAugmenter, {"writer": object(), "max_attempts": 1.5}, "set augmenter.max_attempts"),
        (BackboneWriter, {"backbone": object(), "batch_size": 2.5}, "augmenter.writer.batch_size"),
        (EndpointWriter, {"url": 5, "model": "m"}, "set augmenter.writer.url"),
    ],
)
def test_a_mistyped_setting_is_named(make: Any, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("k", [True, 2.5, "abc"])
def test_a_mistyped_number_of_experts_is_named(k: Any):
    parts: Any = {"source": object(), "router": object(), "trigger": ConstantTrigger(True)}
    with pytest.raises(ValueError, match="k must be a whole number"):
        Routing(**parts, k=k)
