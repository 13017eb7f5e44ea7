"""The settings that every LoRA shares, and the errors of adapter folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.settings import check_types


def check_lora(settings: Any, choices: Sequence[str], error: type[SettingValueError]) -> None:
    """Check the rank, alpha and targets of a dataclass.

    Args:
        settings: An instance.
        choices: The targets that there are.
        error: What is raised if a value is out of range.
    """
    check_types(settings)
    rank, alpha, chosen = settings.rank, settings.alpha, list(settings.targets)
    if rank < 1:
        raise error("rank", f"rank must be positive, got {rank}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise error("alpha", f"alpha must be positive, got {alpha}")
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(choices):
        raise error(
            "targets", f"targets must be some of {', '.join(choices)}, each once, got {chosen}"
        )


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(ValueError):
    """An adapter folder is missing, is damaged, or holds no expert of the final FFN."""


class AdapterSettingError(SettingValueError, AdapterError):
    """A setting of an adapter that is out of range, or names no adapter."""


def check_absent(folder: str | Path) -> None:
    """Check that nothing is where an adapter folder is to be written.

    Raises:
        AdapterError: If something is there.
    """
    if Path(folder).exists():
        raise AdapterError(f"{folder} exists; remove it, or choose another folder")
