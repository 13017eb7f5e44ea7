"""A setting of the wrong type is reported before it is used."""

from __future__ import annotations

from typing import Any

import pytest

from backbone.lora.adapter import LoraSettings
from dmoe.augmentation.augmenter import ModelAugmenter
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.decoding.controls import SomeExperts
from dmoe.decoding.router import RandomRouter
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import ConstantTrigger, RandomTrigger, UncertaintyTrigger
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.method import load_dmoe
from dmoe.training.grouped import Limits
from qa.writing.endpoint import EndpointWriter
from qa.writing.writer import BackboneWriter


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Recipe, {"lr": "abc"}, "lr must be a number, got 'abc'; set lr"),
        (Recipe, {"epochs": 1.5}, "epochs must be a whole number, got 1.5; set epochs"),
        (Recipe, {"epochs": True}, "set epochs"),
        (Recipe, {"betas": 0.9}, "betas must be a list, each entry a number, got 0.9"),
        (Recipe, {"betas": ["a", "b"]}, "set betas"),
        (Recipe, {"seed": "x"}, "set seed"),
        (ExpertSpec, {"rank": "x"}, "rank must be a whole number, got 'x'; set rank"),
        (ExpertSpec, {"alpha": "high"}, "set alpha"),
        (ExpertSpec, {"targets": None}, "set targets"),
        (Limits, {"group_size": 2.5}, "set group_size"),
        (LoraSettings, {"rank": 1.5}, "set rank"),
        (
            LayerFFNs,
            {"backbone": object(), "placement": "all"},
            "placement must be a number, got 'all'; set placement",
        ),
        (UncertaintyTrigger, {"threshold": "high"}, "set threshold"),
        (RandomTrigger, {"rate": "often"}, "set rate"),
        (ConstantTrigger, {"active": "no_thanks"}, "active must be true or false, got 'no_thanks'"),
        (SomeExperts, {"source": object(), "fraction": "half"}, "set fraction"),
        (
            load_dmoe,
            {"backbone": object(), "bank_dir": "x", "fraction": True},
            "fraction must be a number, got True; set fraction",
        ),
        (RandomRouter, {"bank": ["a"], "seed": "abc"}, "got 'abc'; set seed"),
        (ModelAugmenter, {"writer": object(), "max_attempts": 1.5}, "set max_attempts"),
        (BackboneWriter, {"backbone": object(), "batch_size": 2.5}, "set batch_size"),
        (EndpointWriter, {"url": 5, "model": "m"}, "set url"),
    ],
)
def test_a_mistyped_setting_is_named(make: Any, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("experts", [True, 2.5, "abc"])
def test_a_mistyped_number_of_experts_is_named(experts: Any):
    parts: Any = {"source": object(), "router": object(), "trigger": ConstantTrigger(True)}
    with pytest.raises(ValueError, match="experts must be a whole number"):
        Routing(**parts, experts=experts)
