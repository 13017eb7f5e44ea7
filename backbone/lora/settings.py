"""The settings that every LoRA shares, and the errors of adapter folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbing.settings import check_types


def check_lora(
    settings: Any, section: str, choices: Sequence[str], error: type[ValueError]
) -> None:
    """Check the rank, alpha and targets of a dataclass.

    Args:
        settings: An instance.
        section: Where the configuration has it.
        choices: The targets that there are.
        error: What is raised if a value is out of range.
    """
    check_types(settings, section)
    rank, alpha, chosen = settings.rank, settings.alpha, list(settings.targets)
    if rank < 1:
        raise error(f"rank must be positive, got {rank}; set {section}.rank")
    if not (math.isfinite(alpha) and alpha > 0):
        raise error(f"alpha must be positive, got {alpha}; set {section}.alpha")
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(choices):
        raise error(
            f"targets must be some of {', '.join(choices)}, each once, got {chosen}; "
            f"set {section}.targets"
        )


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(ValueError):
    """An adapter folder that is missing, damaged, or no expert of the final FFN."""


def check_absent(folder: str | Path) -> None:
    """Check that nothing is where an adapter folder is to be written.

    Raises:
        AdapterError: If something is there.
    """
    if Path(folder).exists():
        raise AdapterError(f"{folder} exists; remove it, or choose another folder")
