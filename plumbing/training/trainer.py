"""The arguments of Lightning's Trainer, checked before it is made.

Lightning takes some wrong values without a word, and fails in the middle of the training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from typing import Any

import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from plumbing.mounts import SettingValueError
from plumbing.settings import check_values

# What our code gives the Trainer, and what to do instead of setting it.
_GIVEN = {
    "callbacks": "add to the section callbacks instead, and leave {} out",
    "logger": "choose logger=csv, tensorboard, wandb or none instead, and leave {} out",
    "plugins": "leave {} out",
}
_LEAST: dict[str, int] = {
    "max_epochs": -1,  # no limit
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,  # no log
    "num_sanity_val_steps": -1,  # all batches
}
_MOST_PROCESSES = max(16, os.cpu_count() or 1)  # without GPUs; each of them loads the backbone


def check_trainer_arguments(settings: DictConfig, given: Container[str] = ()) -> None:
    """Check the arguments that Lightning's Trainer would take though they are wrong.

    Args:
        settings: The section ``trainer`` of a configuration.
        given: Arguments that the caller replaces; they are not checked.

    Raises:
        SettingValueError: If an argument has a wrong type, is out of range, or is given by our own
            code.
    """
    values: Any = OmegaConf.to_container(settings, resolve=True)
    values = {name: value for name, value in values.items() if name not in given}
    for name, remedy in _GIVEN.items():
        if name in values:
            problem = f"{name} cannot be set as an argument of the Trainer, got {values[name]!r}"
            raise SettingValueError(name, problem, remedy)
    if "devices" in values:
        check_devices(values["devices"])
        _check_processes(values["devices"], values.get("accelerator", "auto"))
    check_values(Trainer.__init__, values)
    if values.get("accelerator") in ("gpu", "cuda") and not _has_gpu(values["accelerator"]):
        raise SettingValueError(
            "accelerator",
            f"there is no GPU here, got the accelerator {values['accelerator']!r}",
            "set {} to cpu or auto, or give trainer=cpu",
        )
    for name, least in _LEAST.items():
        value = values.get(name)
        if value is not None and not value >= least:
            raise SettingValueError(name, f"{name} must be at least {least}, got {value}")


def _has_gpu(accelerator: str) -> bool:
    """True if there is a GPU of NVIDIA's or AMD's, or, as a "gpu", Apple's."""
    return torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())


def _check_processes(devices: Any, accelerator: Any) -> None:
    """Check that no more processes are asked for than a machine without GPUs can bear."""
    on_processor = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_processor and str(devices).isdecimal() and int(devices) > _MOST_PROCESSES:
        raise SettingValueError(
            "devices",
            f"devices must be at most {_MOST_PROCESSES} without a GPU, as each of them is a "
            f"process, got {devices}",
        )


def check_devices(devices: Any) -> None:
    """Check the Trainer's devices, because Lightning's own error does not name the setting.

    Raises:
        ValueError: If it is not a value that Lightning takes.
    """
    if isinstance(devices, str):
        is_valid = re.fullmatch(r"auto|-1|[1-9]\d*|(\d+\s*,\s*)+\d*", devices) is not None
    elif isinstance(devices, int):
        is_valid = not isinstance(devices, bool) and (devices > 0 or devices == -1)
    else:
        numbers = [] if devices is None or isinstance(devices, float) else list(devices)
        is_valid = bool(numbers) and all(type(n) is int and n >= 0 for n in numbers)
    if not is_valid:
        raise SettingValueError(
            "devices",
            "devices must be a positive whole number, auto or -1 (all of them), or a list of their "
            f"indices, got {devices!r}",
        )
