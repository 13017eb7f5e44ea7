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
        ValueError: If one is out of range, or an instance may have more tokens than are computed
            at a time.
    """

    def values(key: str) -> Any:
        return OmegaConf.to_container(config[key], resolve=True)

    spec, recipe = ExpertSpec(**values("expert")), Recipe(**values("recipe"))
    limits = Limits(**values("limits"))
    if recipe.max_tokens - 1 > limits.trunk_tokens:  # the last token is only ever predicted
        raise ValueError(
            f"expected limits.trunk_tokens of {recipe.max_tokens - 1} or more, which an instance "
            f"of recipe.max_tokens={recipe.max_tokens} may need, got {limits.trunk_tokens}; set "
            "it higher, or recipe.max_tokens lower"
        )
    return spec, recipe, limits
