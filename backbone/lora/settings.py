"""The settings that every LoRA shares, and the errors of adapter folders."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plumbing.settings import check_types


def check_lora(
    settings: Any, section: str, choices: Sequence[str], error: type[ValueError]
) -> None:
    """Check the rank, alpha and targets of a dataclass.

    Args:
        settings: The instance that is checked.
        section: Its section in the configuration, for the message.
        choices: The possible targets.
        error: The class of the error that is raised if a value is out of range.

    Raises:
        ValueError: If a setting has another type.
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
    """An adapter folder is missing, is damaged, or holds no expert of the final FFN."""


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Make a folder that is filled under a temporary name inside the block, then renamed.

    Raises:
        AdapterError: If the folder exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise AdapterError(f"{folder} exists; remove it, or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp lets only its own user read the folder
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
