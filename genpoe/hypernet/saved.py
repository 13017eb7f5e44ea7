"""Read the settings of a hypernetwork back from a checkpoint.

A checkpoint names the class of the settings. Only a subclass of `HypernetSettings` is ever built,
so that a checkpoint of unknown origin cannot call anything else. Version 0.1 had only one
hypernetwork, so its checkpoints hold the settings without a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from genpoe.hypernet.hypernet import HypernetSettings
from genpoe.hypernet.mean import MeanSettings

_OPTIM = ("lr", "lr_min", "warmup_steps", "common_lr_scale", "weight_decay", "betas")


def as_nested(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a checkpoint in today's form; it may also be one of version 0.1.

    Returns:
        ``hypernet``: the settings and their class; ``optim``: the optimiser's settings, empty where
        the checkpoint has none; ``max_passage_tokens``: the tokens of a passage that are read.

    Raises:
        KeyError: If a setting is missing; the error names it.
    """
    if "hypernet" in hyper_parameters:
        return dict(hyper_parameters)
    given = hyper_parameters
    names = [field.name for field in fields(MeanSettings)]
    known = {name: given[name] for name in names if name in given or name != "noise"}
    return {
        "hypernet": {"class": f"{MeanSettings.__module__}.{MeanSettings.__qualname__}", **known},
        "optim": {name: given[name] for name in _OPTIM if name in given},
        "max_passage_tokens": given["max_passage_tokens"],
    }


def read_settings(saved: Mapping[str, Any]) -> HypernetSettings:
    """Make the settings from what `HypernetSettings.saved` wrote.

    Raises:
        KeyError: If the class is not named.
        ValueError: If the class cannot be imported, if it is no subclass of `HypernetSettings`, or
            if the settings do not fit it. A setting that this version no longer has must be off.
    """
    values = dict(saved)
    name = str(values.pop("class"))
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"its hypernetwork {name} cannot be imported ({error}); install the package that has it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, HypernetSettings)):
        raise ValueError(f"its hypernetwork is {name}, which is no subclass of HypernetSettings")
    for gone, off in found.GONE.items():
        if (value := values.pop(gone, off)) != off:
            raise ValueError(
                f"it was made with {gone}={value!r}, a part that {name} no longer has; use the "
                "version of this code that wrote it, or train anew"
            )
    try:
        return found(**values)
    except TypeError as error:
        raise ValueError(f"its settings do not fit {name}: {error}") from error
