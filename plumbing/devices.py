"""On which device a model runs, in which number format, and how much memory this takes."""

from __future__ import annotations

import resource
import sys

import torch

from plumbing.mounts import SettingValueError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device that a configuration names. "auto" is a GPU if there is one, else the processor.

    Raises:
        ValueError: If PyTorch knows no such device, or there is no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingValueError(
            "device", f"device must be auto, cpu, cuda, cuda:1, …, got {name!r}"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingValueError(
            "device", f"there is no GPU here, got the device {name!r}", "set {} to cpu or auto"
        )
    return device


def peak_memory() -> int:
    """The most memory that this process has used so far, in bytes; the GPU's if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_rss()


def peak_rss() -> int:
    """The most resident memory that this process has used so far, in bytes, including Java's."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a configuration names.

    "auto" is bfloat16 if the device has instructions that multiply it, and else float32.

    Raises:
        ValueError: If the name is unknown.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SettingValueError(
            "dtype", f"dtype must be auto or one of {', '.join(DTYPES)}, got {name!r}"
        )
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
