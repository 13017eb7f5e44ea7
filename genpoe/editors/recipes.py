"""Editors by name, with one of two recipes: published values, or values for a small model."""

from __future__ import annotations

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
from genpoe.editors.parts.covariance import Covariances
from genpoe.editors.parts.facts import Fact
from genpoe.editors.parts.values import ValueSettings
from genpoe.editors.rome import ROME, ROMESettings
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_names, typed


@dataclass(frozen=True)
class _Kind:
    """An editor: its class, the class of its settings, and whether it may want covariances."""

    editor: Callable[..., Editor]
    settings: Callable[..., Any]
    statistics: bool = False


EDITORS = {
    "ultraedit": _Kind(UltraEdit, UltraEditSettings),
    "memit": _Kind(MEMIT, MEMITSettings, statistics=True),
    "rome": _Kind(ROME, ROMESettings, statistics=True),
    "alphaedit": _Kind(AlphaEdit, AlphaEditSettings, statistics=True),
    "ft_lora": _Kind(FTLoRA, FTLoRASettings),
    "grace": _Kind(GRACE, GRACESettings),
}


@typed
def open_editor(
    backbone: Backbone,
    name: str,
    recipe: str,
    recipes: Mapping[str, Any],
    statistics: str | Path | None = None,
    seed: int = 0,
    examples: Callable[[], Sequence[Fact]] | None = None,
) -> Editor:
    """Make an editor from plain settings.

    Args:
        backbone: The model, unedited.
        name: One of `EDITORS`.
        recipe: Which of the recipes counts.
        recipes: The settings of each recipe.
        statistics: The folder of the layers' covariances; MEMIT and AlphaEdit need one, and ROME
            with ``adjust``.
        seed: The seed of everything that the editor draws.
        examples: Makes training facts with rephrasings, for GRACE's ``radius=auto``.

    Raises:
        SettingValueError: If a setting is unknown, mistyped or out of range.
        StatisticsError: If the covariances are of another model.
    """
    check_choice("name", name, tuple(EDITORS))
    check_choice("recipe", recipe, tuple(recipes))
    kind = EDITORS[name]
    with mounted(f"recipes.{recipe}"):
        values = dict(recipes[recipe])
        check_names(kind.settings, values)
        if "value" in values:
            with mounted("value"):
                check_names(ValueSettings, values["value"])
                values["value"] = ValueSettings(**values["value"])
        if name != "ultraedit":  # it draws nothing
            values["seed"] = seed
        settings = kind.settings(**values)
    needed = kind.statistics and getattr(settings, "adjust", True)
    if needed and statistics is None:
        raise SettingValueError(
            "statistics",
            f"{name} needs the covariances of its layers, got statistics=null",
            "set {} to a folder that genpoe.editors.Covariances.save wrote",
        )
    more: list[Any] = []
    if needed and statistics is not None:
        more = [Covariances.load(statistics, backbone)]
    if getattr(settings, "radius", None) == "auto" and examples is not None:
        more = [examples()]
    with mounted(f"recipes.{recipe}"):
        return kind.editor(backbone, settings, *more)
