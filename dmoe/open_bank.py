"""The bank that the experts of a configuration go into: checked, opened or made, and packed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout, compact
from dmoe.bank.layout import DTYPES
from dmoe.expert import ExpertSpec
from dmoe.final_ffn import FinalFFN
from dmoe.instances import Lesson
from dmoe.recipe import Recipe
from dmoe.settings import typed_settings
from qa.backbone import Backbone

log = logging.getLogger(__name__)

_MANY = 64  # shards, above which a bank is packed: a build adds one a group


def check_bank(settings: Mapping[str, Any]) -> None:
    """Check what can be said of a bank before the model is loaded.

    Args:
        settings: The settings ``bank``.

    Raises:
        ValueError: If one is at fault.
    """
    path, dtype = settings["dir"], settings["dtype"]
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"bank.dir must be a folder's path, got {path!r}; set bank.dir")
    folder = Path(path).absolute()
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not there.is_dir():
        raise ValueError(f"bank.dir must be a folder, got {path} ({there} is a file); set bank.dir")
    check_dtype(dtype)


def check_dtype(dtype: Any) -> None:
    """Check the dtype that a bank is to store.

    Raises:
        ValueError: If there is no such.
    """
    if dtype not in tuple(DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; set bank.dtype")


def open_bank(config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe) -> Bank:
    """Open the bank that the experts go into, or make it.

    Which file augmentations came from, and which split questions, is no part of its recipe: data
    grow, and banks with them.

    Raises:
        BankError: If there is one of another backbone, other settings or another recipe.
    """
    return Bank.create(config.bank.dir, _bank_spec(config, backbone, spec, recipe), exist_ok=True)


def is_built(
    config: DictConfig, lessons: Callable[[], Iterable[Lesson]], backbone: Backbone
) -> bool:
    """Whether there is a bank that has an expert of every lesson's passage already.

    Whatever source its experts' own lessons came from: where nothing is added, none are mixed.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        lessons: What makes the stream of lessons.
        backbone: The model.

    Raises:
        BankError: If there is one that has them all, but with other settings or another recipe.
    """
    try:
        bank = Bank.open(config.bank.dir, backbone, read_only=True)
    except BankError:
        return False  # there is none yet, or building says what is the matter
    formats = list(config.instances.formats)
    wanted = (lesson.passage for lesson in lessons() if lesson.instances(formats))
    if next(bank.missing(wanted), None) is not None:
        return False
    spec, recipe, _ = typed_settings(config)
    _any_source(bank.spec).check_same(
        _any_source(_bank_spec(config, backbone, spec, recipe)), bank.path
    )
    return True


def _bank_spec(
    config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe
) -> BankSpec:
    chosen = config.instances
    layout = ExpertLayout(spec.shapes(FinalFFN(backbone).sizes), config.bank.dtype)
    made_by = {
        **recipe.as_dict(),
        "backbone_dtype": str(backbone.dtype).removeprefix("torch."),
        "formats": list(chosen.formats),
        "source": "augmentation" if chosen.augmentation else f"questions ({chosen.part})",
    }
    return BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha, made_by)


def _any_source(spec: BankSpec) -> BankSpec:
    return replace(spec, recipe={k: v for k, v in spec.recipe.items() if k != "source"})


def pack(bank: Bank) -> None:
    """Compact a bank that has many shards; whatever prevents it is logged, no expert is lost.

    Args:
        bank: The bank; it shows the new version afterwards.
    """
    try:
        bank.refresh()
        if len(bank.view.shards) > _MANY:
            compact(bank)
    except (BankError, OSError) as error:
        log.warning("the bank is left unpacked: %s", error)
