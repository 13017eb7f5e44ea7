"""Editors by name, with one of two recipes: published values, or values for a small model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from genpoe.editors.alphaedit import AlphaEdit, AlphaEditSettings
from genpoe.editors.editor import Editor
from genpoe.editors.ft_lora import FTLoRA, FTLoRASettings
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.memit import MEMIT, MEMITSettings
from genpoe.editors.parts.covariance import Covariances, covariance_folder, find_covariances
from genpoe.editors.parts.facts import Fact
from genpoe.editors.parts.values import ValueSettings
from genpoe.editors.rome import ROME, ROMESettings
from genpoe.editors.trained.malmen import MALMEN
from genpoe.editors.trained.mend import MEND
from genpoe.editors.trained.networks import TrainedSettings
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_names, typed
from plumbing.storage.files import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """An editor: what makes it, the class of its settings, and what else it may want."""

    editor: Callable[..., Editor]
    settings: Callable[..., Any]
    statistics: bool = False
    trained: bool = False


EDITORS = {
    "ultraedit": _Kind(UltraEdit, UltraEditSettings),
    "memit": _Kind(MEMIT, MEMITSettings, statistics=True),
    "rome": _Kind(ROME, ROMESettings, statistics=True),
    "alphaedit": _Kind(AlphaEdit, AlphaEditSettings, statistics=True),
    "ft_lora": _Kind(FTLoRA, FTLoRASettings),
    "grace": _Kind(GRACE, GRACESettings),
    "mend": _Kind(MEND.load, TrainedSettings, trained=True),
    "malmen": _Kind(MALMEN.load, TrainedSettings, trained=True),
}


def read_recipe(name: str, recipe: str, recipes: Mapping[str, Any], seed: int = 0) -> Any:
    """The typed settings of an editor.

    Args:
        name: One of `EDITORS`.
        recipe: Which of the recipes counts.
        recipes: The settings of each recipe.
        seed: The seed of everything that the editor draws.

    Raises:
        SettingValueError: If a setting is unknown, mistyped or out of range.
    """
    kind = EDITORS[name]
    with mounted(f"recipes.{recipe}"):
        values = dict(recipes[recipe])
        check_names(kind.settings, values)
        if "value" in values:
            with mounted("value"):
                check_names(ValueSettings, values["value"])
                values["value"] = ValueSettings(**values["value"])
        if "seed" in inspect.signature(kind.settings).parameters:  # others draw nothing
            values["seed"] = seed
        return kind.settings(**values)


@typed
def open_editor(
    backbone: Backbone,
    name: str,
    recipe: str,
    recipes: Mapping[str, Any],
    statistics: str | Path | None = None,
    seed: int = 0,
    ckpt_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    examples: Callable[[], Sequence[Fact]] | None = None,
) -> Editor:
    """Make an editor from plain settings.

    Args:
        backbone: The model, unedited.
        name: One of `EDITORS`.
        recipe: Which of the recipes counts.
        recipes: The settings of each recipe.
        statistics: The folder of the layers' covariances, which MEMIT and AlphaEdit need, and ROME
            with ``adjust``. None: what ``scripts/measure_covariances.py`` left in the cache.
        seed: The seed of everything that the editor draws.
        ckpt_path: What ``scripts/train_editor.py`` has trained; MEND and MALMEN need it.
        cache_dir: The cache folder; None: that of the environment.
        examples: Makes training facts with rephrasings, for GRACE's ``radius=auto``.

    Raises:
        SettingValueError: If a setting is unknown, mistyped or out of range.
        StatisticsError: If the covariances are of another model.
        CheckpointError: If the checkpoint cannot be loaded, or is of another editor.
        BackboneMismatchError: If the checkpoint was trained with another backbone.
    """
    check_choice("name", name, tuple(EDITORS))
    check_choice("recipe", recipe, tuple(recipes))
    kind = EDITORS[name]
    settings = read_recipe(name, recipe, recipes, seed)
    if kind.trained:
        return kind.editor(backbone, settings, ckpt_path)
    more: list[Any] = []
    if kind.statistics and getattr(settings, "adjust", True):
        more = [_covariances(backbone, name, settings, statistics, cache_dir)]
    if getattr(settings, "radius", None) == "auto" and examples is not None:
        more = [examples()]
    with mounted(f"recipes.{recipe}"):
        return kind.editor(backbone, settings, *more)


def layers_of(settings: Any) -> list[int]:
    """The layers that an editor of these settings writes."""
    return list(settings.layers) if hasattr(settings, "layers") else [settings.layer]


def _covariances(
    backbone: Backbone,
    name: str,
    settings: Any,
    statistics: str | Path | None,
    cache_dir: str | Path | None,
) -> Covariances:
    """The covariances in a folder, or those of the cache."""
    if statistics is not None:
        return Covariances.load(statistics, backbone)
    cache, layers = cache_dir or cache_folder(), layers_of(settings)
    found = find_covariances(cache, backbone, layers)
    if found is None:
        raise SettingValueError(
            "statistics",
            f"{name} needs the covariances of the layers {', '.join(map(str, layers))} of "
            f"{backbone.name} in {str(backbone.dtype).removeprefix('torch.')}, found none in "
            f"{covariance_folder(cache)}",
            f"run scripts/measure_covariances.py editor={name}, or set {{}} to a folder that "
            "genpoe.editors.Covariances.save wrote",
        )
    log.info("the covariances are those of %s", found)
    return Covariances.load(found, backbone)
