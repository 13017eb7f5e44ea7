"""The settings of a hypernetwork are read back from checkpoints of this version and of 0.1."""

from __future__ import annotations

from typing import Any

import pytest

from genpoe.hypernet.mean import MeanSettings
from genpoe.hypernet.reader import ReaderSettings
from genpoe.hypernet.saved import as_nested, read_settings

SETTINGS = MeanSettings(
    layer=1,
    rank=4,
    hidden_width=8,
    embedding_scaling="standardize",
    initialization="random",
    noise=0.5,
)
MEAN = "genpoe.hypernet.mean.MeanSettings"
OPTIM = {"lr": 1e-3, "lr_min": 1e-5, "warmup_steps": 2, "weight_decay": 0.1, "betas": [0.9, 0.99]}
FLAT = {
    **{"layer": 1, "rank": 4, "hidden_width": 8, "embedding_scaling": "standardize"},
    **{"initialization": "random", "noise": 0.5, "max_passage_tokens": 64, "seed": 3},
}


def test_what_is_saved_is_read_back() -> None:
    saved = SETTINGS.saved()
    assert saved["class"] == MEAN
    assert read_settings(saved) == SETTINGS
    nested = {"hypernet": saved, "optim": OPTIM, "max_passage_tokens": 64}
    assert as_nested(nested) == nested


def test_a_reader_has_the_name_that_checkpoints_and_banks_of_codes_know() -> None:
    settings = ReaderSettings(layer=1, read_layer=1)
    saved = settings.saved()
    assert saved["class"] == "genpoe.hypernet.reader.ReaderSettings"
    assert read_settings(saved) == settings


def test_a_part_that_is_gone_must_have_been_off() -> None:
    settings = ReaderSettings(layer=1, read_layer=1)
    before = {**settings.saved(), "prior": False, "look_ahead": 0, "ahead": False}
    assert read_settings(before) == settings
    for name, value in {"prior": True, "look_ahead": 2, "ahead": True}.items():
        with pytest.raises(
            ValueError, match=rf"made with {name}={value}, a part that .* no longer"
        ):
            read_settings({**before, name: value})


def test_a_flat_checkpoint_of_version_0_1_becomes_nested() -> None:
    nested = as_nested(FLAT | OPTIM)
    assert nested["optim"] == OPTIM  # there was no common_lr_scale
    assert nested["max_passage_tokens"] == 64
    assert read_settings(nested["hypernet"]) == SETTINGS
    assert as_nested(FLAT)["optim"] == {}


def test_of_a_flat_checkpoint_only_the_noise_may_be_missing() -> None:
    quiet = {name: value for name, value in FLAT.items() if name != "noise"}
    found = read_settings(as_nested(quiet)["hypernet"])
    assert isinstance(found, MeanSettings)
    assert found.noise == 0
    for name in ("rank", "max_passage_tokens"):
        with pytest.raises(KeyError, match=name):
            as_nested({key: value for key, value in FLAT.items() if key != name})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", r"its hypernetwork is os\.system, which is no subclass of HypernetSettings"),
        ("builtins.dict", "which is no subclass"),
        ("nowhere.Settings", r"nowhere\.Settings cannot be imported .*; install the package"),
        ("genpoe.hypernet.mean.Other", "cannot be imported"),
        ("Settings", "cannot be imported"),
    ],
)
def test_only_settings_of_hypernetworks_are_made(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings({"class": name, "command": "true"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, f"its settings do not fit {MEAN}: .*width"),
        ({"rank": 0}, "rank must be positive, got 0"),
    ],
)
def test_settings_must_fit_their_class(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(SETTINGS.saved() | change)


def test_the_class_must_be_named() -> None:
    with pytest.raises(KeyError, match="class"):
        read_settings({"rank": 4})
