"""From a composed configuration to the typed settings of experts and their training.

Settings of the Trainer under which experts would be missing, or would not be what the bank says of
them, are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import Limits
from plumbing.mounts import mounted


def typed_settings(config: DictConfig) -> tuple[ExpertSpec, Recipe, Limits]:
    """The settings of a configuration, checked.

    Raises:
        ValueError: If one is out of range, or an instance may have more tokens than are computed
            at a time.
    """

    def values(key: str) -> Any:
        return OmegaConf.to_container(config[key], resolve=True)

    with mounted("expert"):
        spec = ExpertSpec(**values("expert"))
    with mounted("recipe"):
        recipe = Recipe(**values("recipe"))
    with mounted("limits"):
        limits = Limits(**values("limits"))
    if recipe.max_tokens - 1 > limits.trunk_tokens:  # the last token is only ever predicted
        raise ValueError(
            f"expected limits.trunk_tokens of {recipe.max_tokens - 1} or more, which an instance "
            f"of recipe.max_tokens={recipe.max_tokens} may need, got {limits.trunk_tokens}; set "
            "it higher, or recipe.max_tokens lower"
        )
    return spec, recipe, limits


_PRECISIONS = (None, 32, "32", "32-true")

# What ends a training early or changes its steps, and the values with which it does not.
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
    """Check that a Trainer passes once over all groups of experts, and changes none of them.

    The Trainer hands out passages; how an expert is trained is its recipe's, which the bank keeps.

    Args:
        trainer: The settings ``trainer`` of ``conf/build_experts.yaml``.

    Raises:
        ValueError: Naming the setting, and what to set instead.
    """
    precision = trainer.get("precision")
    if precision not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision must be 32-true, got {precision!r}: experts are trained in "
            "float32, on the hidden states of a backbone whose dtype is backbone.dtype; set "
            "backbone.dtype=bfloat16 for that, and leave trainer.precision out"
        )
    if trainer.get("max_epochs") != 1:
        raise ValueError(
            f"trainer.max_epochs must be 1, got {trainer.get('max_epochs')!r}: the Trainer sees "
            "each passage once; set recipe.epochs for the epochs of an expert"
        )
    for key, unset in _UNSET.items():
        value = trainer.get(key)
        if (type(value), value) not in [(type(one), one) for one in unset]:  # 1 is no 1.0 here
            raise ValueError(
                f"trainer.{key} must not be set, got {value!r}: experts would be missing, or not "
                "as their recipe says; leave it out, and set instances.limit for fewer passages, "
                "recipe.epochs and recipe.batch_size for how each expert is trained"
            )
    check_devices(trainer.get("devices"))


def check_devices(devices: Any) -> None:
    """Check ``trainer.devices``, of which Lightning's own error has no key.

    Raises:
        ValueError: If it is none of what Lightning takes.
    """
    if isinstance(devices, str):
        is_valid = re.fullmatch(r"auto|-1|[1-9]\d*|(\d+\s*,\s*)+\d*", devices) is not None
    elif isinstance(devices, int):
        is_valid = not isinstance(devices, bool) and (devices > 0 or devices == -1)
    else:
        numbers = [] if devices is None or isinstance(devices, float) else list(devices)
        is_valid = bool(numbers) and all(type(n) is int and n >= 0 for n in numbers)
    if not is_valid:
        raise ValueError(
            "trainer.devices must be a positive whole number, auto or -1 (all of them), or a list "
            f"of their indices, got {devices!r}; set trainer.devices"
        )
