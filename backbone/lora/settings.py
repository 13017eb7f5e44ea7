"""The settings that every LoRA shares, and the errors of adapter folders."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    """An adapter folder that is missing, damaged, or no expert of the final FFN."""


class AdapterSettingError(SettingValueError, AdapterError):
    """A setting of an adapter that is out of range, or names no adapter."""


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder that is filled under another name inside the block, and renamed at its end.

    Raises:
        AdapterError: If it exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise AdapterError(f"{folder} exists; remove it, or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's folders are for their maker alone
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
