"""Turns a composed configuration into the typed settings of experts and their training.

It also refuses settings of the Trainer that would lose experts, or train them in another way than
the bank's recipe says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import Limits
from plumbing.mounts import SettingValueError
from plumbing.settings import read_section
from plumbing.training.trainer import check_devices


def typed_settings(config: DictConfig) -> tuple[ExpertSpec, Recipe, Limits]:
    """Read and check the settings of experts, of their training, and of its memory.

    Raises:
        ValueError: If a setting is out of range, or if instances may have more tokens
            (``recipe.max_tokens``) than are computed at a time (``limits.trunk_tokens``).
    """
    spec = read_section(config, "expert", ExpertSpec)
    recipe = read_section(config, "recipe", Recipe)
    limits = read_section(config, "limits", Limits)
    if recipe.max_tokens - 1 > limits.trunk_tokens:  # the last token is only ever predicted
        raise SettingValueError(
            "limits.trunk_tokens",
            f"trunk_tokens must be {recipe.max_tokens - 1} or more, which an instance of the "
            f"recipe's max_tokens={recipe.max_tokens} may need, got {limits.trunk_tokens}",
            "set {} higher, or the recipe's max_tokens lower",
        )
    return spec, recipe, limits


_PRECISIONS = (None, 32, "32", "32-true")

# Settings that would end a training early or change its steps. Each has the values that leave it
# off.
_UNSET: dict[str, tuple[Any, ...]] = {
    "max_steps": (None, -1),
    "max_time": (None,),
    "limit_train_batches": (None, 1.0),
    "overfit_batches": (None, 0, 0.0),
    "fast_dev_run": (None, False, 0),
    "gradient_clip_val": (None,),
    "accumulate_grad_batches": (None, 1),
}


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check that a Trainer passes exactly once over all groups, and leaves their training alone.

    The Trainer only hands out passages. How an expert is trained is set by the recipe, which the
    bank records.

    Args:
        trainer: The settings ``trainer`` of ``conf/build_experts.yaml``.

    Raises:
        ValueError: If a setting does not allow that. The message names it, and says what to set
            instead.
    """
    precision = trainer.get("precision")
    if precision not in _PRECISIONS:
        raise SettingValueError(
            "precision",
            f"precision must be 32-true, got {precision!r}: experts are trained in float32, on "
            "the hidden states of a backbone that may have another dtype",
            "leave {} out, and give the backbone the dtype bfloat16 instead",
        )
    if trainer.get("max_epochs") != 1:
        raise SettingValueError(
            "max_epochs",
            f"max_epochs must be 1, got {trainer.get('max_epochs')!r}: the Trainer sees each "
            "passage once",
            "set {}=1, and the epochs of an expert in the recipe",
        )
    for key, unset in _UNSET.items():
        value = trainer.get(key)
        if (type(value), value) not in [(type(one), one) for one in unset]:  # 1 is not 1.0 here
            raise SettingValueError(
                key,
                f"{key} must not be set, got {value!r}: experts would be missing, or not as their "
                "recipe says",
                "leave {} out; the limit of the instances makes them fewer, and the recipe says "
                "how each expert is trained",
            )
    check_devices(trainer.get("devices"))
