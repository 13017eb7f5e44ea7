"""From a composed configuration to the typed settings of experts and their training."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dmoe.expert import ExpertSpec
from dmoe.grouped import Limits
from dmoe.recipe import Recipe


def typed_settings(config: DictConfig) -> tuple[ExpertSpec, Recipe, Limits]:
    """The settings of a configuration, checked.

    Raises:
        ValueError: If one is out of range.
    """

    def values(key: str) -> Any:
        return OmegaConf.to_container(config[key], resolve=True)

    return ExpertSpec(**values("expert")), Recipe(**values("recipe")), Limits(**values("limits"))
